"""The standalone host against the real threestudio: the same pieces on the same numbers."""

"""The standalone host against the real threestudio: the same components on the same numbers."""

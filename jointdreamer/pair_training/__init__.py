"""Training of what an energy needs and nobody publishes: the pair classifier."""

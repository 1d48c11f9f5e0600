"""Models in the layouts of their own authors, turned into stock configs and state dicts."""

"""The launcher, and a small host that stands in where threestudio is not installed."""

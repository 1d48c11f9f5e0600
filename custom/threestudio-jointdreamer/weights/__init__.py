"""Weights: where they are, how they get here, and reading them safely, strictly and once."""

"""Random priors, cameras and prompts that tests and benchmarks share."""

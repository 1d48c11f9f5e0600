"""Are our priors the models that others published? Compared on random weights, in float64."""

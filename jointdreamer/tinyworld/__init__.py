"""The tiny world: procedural creatures, their captions, and how the tiny priors are trained."""

"""Looking at finished runs: curves, contact sheets, runs side by side."""

TINY_CLIP = "load/tiny/clip"

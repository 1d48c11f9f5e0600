"""Looking at finished runs: curves, contact sheets, runs side by side."""

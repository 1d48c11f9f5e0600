"""The claim in miniature, measured: what `python benchmarks/benchmark.py` is made of."""

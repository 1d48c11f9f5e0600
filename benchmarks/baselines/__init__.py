"""What JSD is compared with, as an extension beside the product; `running.register` loads it.

`multiview-distillation-energy`: in jsd-guidance, SDS plus the loss of a multi-view model, weighed.
`multiview-distillation-guidance`: the multi-view model's loss alone.

`python -m benchmarks.baselines` is launch.py with these: see configs/sweeps/benchmark.yaml.
"""

"""launch.py with the baselines."""

import sys

from benchmarks.baselines.running import register
from jointdreamer.host import launcher as trainer

register()
sys.exit(trainer.main())

"""launch.py with the baselines."""

import sys

from standalone import trainer

from .running import register

register()
sys.exit(trainer.main())

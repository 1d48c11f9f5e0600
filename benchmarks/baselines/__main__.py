"""launch.py with the baselines."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.baselines.running import register  # noqa: E402
from jointdreamer.host.launcher import main  # noqa: E402

register()
sys.exit(main())

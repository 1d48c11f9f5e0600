"""launch.py with the baselines; with `--together TASK.json`, jointdreamer.sweeps.together."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.baselines import register  # noqa: E402
from jointdreamer.host.launcher import main  # noqa: E402

register()
if sys.argv[1:2] == ["--together"]:
    from jointdreamer.sweeps import together

    together.main(*sys.argv[2:])
sys.exit(main())

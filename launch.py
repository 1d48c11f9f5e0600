"""Trains, validates, tests or exports a config: `python launch.py --config x.yaml --train`."""

import sys

from jointdreamer.host.launcher import main

if __name__ == "__main__":
    sys.exit(main())

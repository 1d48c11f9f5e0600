"""What people run: the `jointdreamer` command, the launcher, evaluation, and the stand-in host."""

from importlib import metadata

try:
    __version__ = metadata.version("threestudio-jointdreamer")
except metadata.PackageNotFoundError:
    __version__ = "of a checkout that is not installed"

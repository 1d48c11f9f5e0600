"""What people run: the `jointdreamer` command, the launcher, evaluation, and the stand-in host."""

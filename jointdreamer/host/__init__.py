"""Chooses threestudio or the stand-in, and carries out what a config describes."""

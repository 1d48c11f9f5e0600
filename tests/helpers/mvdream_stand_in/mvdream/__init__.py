"""The names that threestudio-mvdream imports, for systems whose guidance is another one."""

"""The commands (mode=), and what those that train share; a command takes a configuration that passed every check."""

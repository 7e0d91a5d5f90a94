"""One file for each command (mode=); a command takes a configuration that passed every check."""

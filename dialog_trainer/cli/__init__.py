"""Front door: command line, composition, saved configuration, launching and the commands."""

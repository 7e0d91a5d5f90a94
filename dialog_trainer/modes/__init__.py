"""What `mode=` does, a file for each. All take settings that passed every check."""

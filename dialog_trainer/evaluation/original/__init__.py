"""The scoring protocol of the original program, kept apart from the others."""

"""The reply protocol of the original program: its rows and its scores, only to reproduce its tables."""

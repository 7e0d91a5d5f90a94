"""Text in, number out; no torch."""

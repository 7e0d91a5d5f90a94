"""What a run writes: its directory, the rows of its metrics, and trackers that show them elsewhere."""

"""What a run writes: its directory, rows of metrics, trackers."""

"""The self-contained HTML page of mode=inspect."""

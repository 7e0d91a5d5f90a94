"""What people look at: figures, progress, printed lines."""

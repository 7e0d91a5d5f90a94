"""The training loop and what it needs to stop and resume: learning rate, early stopping, checkpoints, signals."""

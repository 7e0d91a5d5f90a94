"""The training loop and what it needs to stop and go on: learning rate, early stopping, checkpoints, signals."""

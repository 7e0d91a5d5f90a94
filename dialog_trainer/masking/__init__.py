"""Masking: which turns carry the loss, and when. Loss weights as pure functions of training progress."""

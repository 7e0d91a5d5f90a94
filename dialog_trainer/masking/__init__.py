"""Which turns carry the loss, and when: pure functions of the progress of training."""

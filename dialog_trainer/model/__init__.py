"""A causal language model: loading, the loss of a packed batch, replies."""

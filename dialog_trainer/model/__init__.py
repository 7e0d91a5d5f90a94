"""The causal language model: loading, packed forward pass, loss, generation."""

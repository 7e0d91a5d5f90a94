"""dialog_trainer: train causal language models into multi-turn chatbots, and study which turns carry the loss."""

__version__ = "0.1.0"

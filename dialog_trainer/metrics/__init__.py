"""Scores of replies and of losses, with bootstrap confidence intervals. No torch."""

"""Keeps the libraries' own chatter out of what a run prints."""

import sys

import datasets
import transformers


def hush_libraries() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()

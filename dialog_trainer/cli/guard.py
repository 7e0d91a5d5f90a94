"""Errors of a command line: a message in place of a traceback, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dialog_trainer.errors import DialogTrainerError, describe_error
from dialog_trainer.screen import write_line
from dialog_trainer.signals import NOTHING_TO_SAVE, StopRequest

# The modules of the dependencies in pyproject.toml.
REQUIRED_MODULES = frozenset(
    ("torch", "transformers", "datasets", "peft", "gguf", "tokenizers", "safetensors", "numpy", "pyarrow", "pydantic",
     "yaml", "hydra", "omegaconf", "sacrebleu", "nltk", "matplotlib", "jinja2", "rich")
)  # fmt: skip


def guard(action: Callable[[], int]) -> int:
    """The exit code of an action; what a user can put right is printed in place of a traceback.

    An error with notes is one whose traceback is in a log, as a note says. Any other error is one of this program, and
    raised, so that its traceback can be reported.
    """
    try:
        return action()
    except DialogTrainerError as error:
        write_line(str(error), sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        write_line(NOTHING_TO_SAVE, sys.stderr)
        return 130
    except StopRequest as request:
        write_line(NOTHING_TO_SAVE, sys.stderr)
        return int(request.code or 0)
    except ModuleNotFoundError as error:
        if error.name not in REQUIRED_MODULES:
            raise
        write_line(
            f"{error.name} is not installed for this Python ({sys.executable}): activate the environment that has "
            "dialog_trainer (source .venv/bin/activate), or pip install .",
            sys.stderr,
        )
        return 2
    except Exception as error:
        message = describe_error(error)
        if message is None:
            raise
        write_line(message, sys.stderr)
        return 1

"""The command `dialog-trainer`, and `python -m dialog_trainer`."""

import os
import sys

from dialog_trainer.signals import block_stops


def entry() -> None:
    """Runs the command line in an interpreter whose hashes are the same each time: the code that torch compiles depends
    on them, and so would the last bits of a run that is resumed."""
    if os.environ.get("PYTHONHASHSEED", "") in ("", "random") and os.name == "posix":
        os.environ["PYTHONHASHSEED"] = "0"
        block_stops(True)  # until the new interpreter has a handler
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    from dialog_trainer.cli import main

    main.entry()


if __name__ == "__main__":
    entry()

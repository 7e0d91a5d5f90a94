"""Errors with a message for the user, and their exit codes.

DialogTrainerError            exit 1
├── ConfigError               exit 2   an option or a combination of options (all errors of a configuration in one)
├── DataError                 exit 2   a source of dialogues: names file, line and remedy
├── CheckpointError           exit 2   a checkpoint or run directory that is missing, damaged or does not fit
├── ModelError                exit 2   a model or tokenizer that cannot be loaded
├── DistributedError          exit 1   ranks that cannot work together
└── TrainingError             exit 1   training that cannot continue: a loss that is not finite, a full disk
"""


class DialogTrainerError(Exception):
    """An error that the user can fix. Its text says what is wrong, where, and what to do."""

    exit_code = 1


class ConfigError(DialogTrainerError):
    """Errors in the configuration, without repeats."""

    exit_code = 2

    def __init__(self, errors: list[str]):
        self.errors = list(dict.fromkeys(errors))
        count = len(self.errors)
        title = "1 error in the configuration:" if count == 1 else f"{count} errors in the configuration:"
        super().__init__("\n".join([title, *(f"  - {error}" for error in self.errors)]))


class DataError(DialogTrainerError):
    """Dialogues that cannot be read, or a cache that cannot be written."""

    exit_code = 2


class EmptySplitError(DataError):
    """A split that data which can be read do not have, or without a dialogue in it."""


class CheckpointError(DialogTrainerError):
    """A checkpoint, run directory or scores file that cannot be used."""

    exit_code = 2


class ModelError(DialogTrainerError):
    """A model or tokenizer that cannot be loaded."""

    exit_code = 2


class DistributedError(DialogTrainerError):
    """Ranks that cannot work together."""


class TrainingError(DialogTrainerError):
    """Training that cannot continue."""


def describe_error(error: Exception) -> str | None:
    """An error in a line or two; None where nothing but its traceback helps."""
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f"{error.filename}: "
        return f"{place}{error.strerror}; fix it or choose another path"
    notes = getattr(error, "__notes__", None)
    return f"{type(error).__name__}: {error}\n" + "\n".join(notes) if notes else None

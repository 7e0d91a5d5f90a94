"""What can go wrong for a user, and with which exit code.

DialogTrainerError            exit 1
├── ConfigError               exit 2   an option or a combination of options (all errors of a composition in one)
├── DataError                 exit 2   a file of dialogues: names file, line and remedy
├── CheckpointError           exit 2   a checkpoint or run folder that is missing, broken or does not fit
├── ModelError                exit 2   a model or tokenizer that cannot be loaded
├── DistributedError          exit 1   a group of processes that do not fit together
└── TrainingError             exit 1   the run itself: a loss that is not finite, a disk that is full
"""


class DialogTrainerError(Exception):
    """A fault that the user can mend. Its text says what is wrong, where, and what to do."""

    exit_code = 1


class ConfigError(DialogTrainerError):
    exit_code = 2

    def __init__(self, errors: list[str]):
        self.errors = list(dict.fromkeys(errors))
        count = len(self.errors)
        title = "1 error in the configuration:" if count == 1 else f"{count} errors in the configuration:"
        super().__init__("\n".join([title, *(f"  - {fault}" for fault in self.errors)]))


class DataError(DialogTrainerError):
    exit_code = 2


class CheckpointError(DialogTrainerError):
    exit_code = 2


class ModelError(DialogTrainerError):
    exit_code = 2


class DistributedError(DialogTrainerError):
    """Processes that cannot work as one."""


class TrainingError(DialogTrainerError):
    """Training that cannot go on."""

"""The open groups: common fields of every choice, and for each built-in target a closed record of its own keys.

`_target_` names a class or function. For a built-in one the keys besides the common ones are those of its record here;
for one of the user's own they are kept as they are, and checked against its signature once it is imported.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from dialog_trainer.config.data_names import Columns, Roles, Sources, SplitNames, Weights
from dialog_trainer.config.fields import (
    Arguments,
    BelowOne,
    Betas,
    Count,
    CountOr0,
    Flag,
    Fraction,
    HeldOut,
    LearningRate,
    Name,
    NotNegative,
    OnResume,
    Points,
    Positive,
    Record,
    Text,
    setting,
)

_SOURCES = "dialog_trainer.data.sources"
_SCHEDULERS = "dialog_trainer.training.learning_rate"
_MASKS = "dialog_trainer.masking.schedules"


class OpenGroup(Record):
    """A group whose choices may be the user's own. `arguments` holds the keys that only the chosen target has."""

    target: Text | None = setting("Dotted name of the class or function.", alias="_target_")
    arguments: Arguments = setting("The keys of the chosen target.")

    # Built-in target -> record of its own keys.
    TARGETS: ClassVar[dict[str, type[Record]]] = {}
    # What a changed key of a target of the user's own means for a resumed run.
    OWN_ON_RESUME: ClassVar[OnResume] = "free"


class NoKeys(Record):
    """A target without keys of its own."""


class DailyDialogKeys(Record):
    # "free": the digests of the data say whether a resume is exact, wherever the files are by now.
    path: Name | None = setting(
        "Folder with <split>.jsonl, the official text files or the original program's pickles. null: data.hub_id."
    )
    hub_id: Name = setting(
        "Parquet data set on the hub (or a folder of parquet files), used without a path.", "inexact"
    )
    hub_revision: Name | None = setting("Its revision: a branch, tag or commit. null: the default branch.", "inexact")
    hub_column: Name = setting("Its column with the list of turns (roskoN/dailydialog: utterances).", "inexact")


class HoldOutKeys(Record):
    validation_share: HeldOut = setting(
        "Proportion of the training dialogues held out without validation data.", "inexact"
    )


class JsonlKeys(HoldOutKeys):
    train_data_path: Name | None = setting(
        "File, folder or pattern: JSON lines, JSON, CSV, TSV or parquet, also .gz or .zst. In a folder the names of files "
        "tell the splits apart."
    )
    validation_data_path: Name | None = setting(
        "The same for validation. null: that of the training folder, or a part of the training dialogues is held out, "
        "chosen by a hash of their text."
    )
    test_data_path: Name | None = setting("The same for split=test. null: that of the training folder, if it has one.")


class MappingKeys(Record):
    columns: Columns | None = setting(
        "What a row has, and its key in the data, where that is not a usual one; null as a key: not read. null: none.",
        "inexact",
    )
    roles: Roles | None = setting(
        "Names of roles in the data, and their role; or a role, and the names of its speakers. null: the usual names.",
        "inexact",
    )


class FilesKeys(MappingKeys, JsonlKeys):
    """The keys of files that are read as they are."""


class HubKeys(MappingKeys, HoldOutKeys):
    id: Name | None = setting("Data set on the hub (owner/name), or a folder with a copy of its files.", "inexact")
    config: Name | None = setting("Its configuration (subset), if it has several. null: the default one.", "inexact")
    revision: Name | None = setting("Its revision: a branch, tag or commit. null: the default branch.", "inexact")
    splits: SplitNames | None = setting(
        "Splits, and their names in the data set, where these are others, as {validation: test}. null: by their names.",
        "inexact",
    )


class MixtureKeys(MappingKeys, HoldOutKeys):
    sources: Sources | None = setting(
        "Data sets: each a file, folder or pattern, as data=files takes it, or an id of the hub."
    )
    weights: Weights | None = setting(
        "How often each is in the training data, as [1,2.5]: 2.5 is twice, and half of its dialogues a third time. "
        "Held-out dialogues count once. null: each once.",
        "inexact",
    )


class DataConfig(OpenGroup):
    target: Text = setting("Class that reads the dialogues.", "inexact", alias="_target_")
    drop_leaks: Flag = setting(
        "Drop training dialogues that also occur, exactly, normalized or nearly, in a held-out split (contamination).",
        "inexact",
    )
    truncation: Literal["split", "keep_start", "keep_end"] = setting(
        "What happens to a dialogue longer than model.max_len: split (several sequences), keep_start or keep_end.",
        "inexact",
    )
    max_train_dialogues: Count | None = setting(
        "Training dialogues that are used, the first of the data. null: all.", "inexact", when_absent=None
    )
    max_validation_dialogues: Count | None = setting(
        "The same for the validation split: its loss covers them all.", "inexact", when_absent=None
    )
    workers: CountOr0 | None = setting(
        "Processes that tokenize. 0: this process alone. null: chosen from the machine, at most 8."
    )
    cache_dir: Name | None = setting(
        "Folder of the tokenized data, shared by all runs. null: dialog_trainer in $XDG_CACHE_HOME or ~/.cache."
    )

    TARGETS: ClassVar = {
        f"{_SOURCES}.DailyDialog": DailyDialogKeys,
        f"{_SOURCES}.Files": FilesKeys,
        f"{_SOURCES}.Hub": HubKeys,
        f"{_SOURCES}.Jsonl": JsonlKeys,
        f"{_SOURCES}.Mixture": MixtureKeys,
        f"{_SOURCES}.ChitChat": NoKeys,
    }
    OWN_ON_RESUME: ClassVar = "inexact"


class OptimizerKeys(Record):
    """Switches of torch's optimizers that conf/ leaves out: `+optim.amsgrad=true` adds one."""

    foreach: Flag | None = setting("Update with multi-tensor kernels.", "refused", optional=True)
    fused: Flag | None = setting("Update with one fused kernel.", "refused", optional=True)
    maximize: Flag | None = setting("Maximise the objective.", "refused", optional=True)
    differentiable: Flag | None = setting("Record the update for autograd.", "refused", optional=True)


class AdamKeys(OptimizerKeys):
    weight_decay: NotNegative = setting("Weight decay (AdamW: decoupled; Adam: added to the gradient).")
    betas: Betas = setting("Decay of the running means of the gradient and of its square.")
    eps: Positive = setting("Added to the denominator of the update.")
    amsgrad: Flag | None = setting("Use the maximum of the second moments.", "refused", optional=True)
    capturable: Flag | None = setting("Safe to capture in a CUDA graph.", "refused", optional=True)


class SgdKeys(OptimizerKeys):
    momentum: BelowOne = setting("Proportion of the last update that is kept.")
    weight_decay: NotNegative = setting("Weight decay, added to the gradient.")
    dampening: BelowOne | None = setting("Dampening of the momentum.", "refused", optional=True)
    nesterov: Flag | None = setting("Nesterov momentum.", "refused", optional=True)


class OptimConfig(OpenGroup):
    target: Text = setting("Class of the optimizer.", "refused", alias="_target_")
    lr0: LearningRate = setting(
        "Learning rate that the scheduler's factor multiplies. auto: 1e-4 for a pretrained model, 1e-3 "
        "for its adapter, 0.512 / model.width for a model from scratch; decided at the first start."
    )

    TARGETS: ClassVar = {"torch.optim.AdamW": AdamKeys, "torch.optim.Adam": AdamKeys, "torch.optim.SGD": SgdKeys}
    OWN_ON_RESUME: ClassVar = "refused"


class DecayKeys(Record):
    lrf: Fraction = setting("Learning rate at schedule_steps, as a proportion of optim.lr0.")


class SchedulerConfig(OpenGroup):
    target: Text = setting("Function of the learning rate's factor.", alias="_target_")
    warmup_steps: CountOr0 = setting("Updates over which the learning rate rises from 0.")

    TARGETS: ClassVar = {
        f"{_SCHEDULERS}.cosine": DecayKeys,
        f"{_SCHEDULERS}.linear": DecayKeys,
        f"{_SCHEDULERS}.constant": NoKeys,
    }


class RampKeys(Record):
    start: Fraction = setting("Progress at which the user's weight begins to change.")
    end: Fraction = setting("Progress from which it is final, at least mask_schedule.start.")
    start_weight: Fraction = setting("The user's weight before the change.")
    end_weight: Fraction = setting("The user's weight after the change.")


class ConstantKeys(Record):
    end_weight: Fraction = setting("The user's weight throughout: 0 (the assistant alone) to 1 (all turns).")


class PiecewiseKeys(Record):
    points: Points = setting("Points of a line through the weights, in order of progress; every number from 0 to 1.")


class MaskScheduleConfig(OpenGroup):
    target: Text = setting("Function of the loss weights.", alias="_target_")
    trained_role: Literal["assistant", "user"] = setting(
        "Whose turns are trained to the end: assistant, or user (a user simulator; the schedule's roles change places)."
    )
    last_turn_only: Flag = setting(
        "Train only the last turn of that role in each sequence (and the end), whatever the schedule."
    )
    normalize: Literal["token", "fixed", "turn"] = setting(
        "Divisor of an update's summed loss: token (sum of the weights), fixed (number of tokens) or turn (as token, "
        "each trained turn counting alike)."
    )
    untrained: Literal["drop", "refuse"] = setting(
        "Sequences without a turn of that role and without an end: drop (not trained, and counted) or refuse."
    )
    alignment_every_n_steps: Count | None = setting(
        "Updates between measurements of how the gradients of the user's and the assistant's loss agree. null: never."
    )

    TARGETS: ClassVar = {
        f"{_MASKS}.step": NoKeys,
        f"{_MASKS}.reverse_step": NoKeys,
        f"{_MASKS}.random_turns": NoKeys,
        f"{_MASKS}.linear": RampKeys,
        f"{_MASKS}.cosine": RampKeys,
        f"{_MASKS}.constant": ConstantKeys,
        f"{_MASKS}.piecewise": PiecewiseKeys,
    }


class TensorBoardKeys(Record):
    """No options so far: the tracker writes into the run's folder."""


class LoggerConfig(OpenGroup):
    """A tracker in addition to `metrics.jsonl`. `target` None: there is none."""

    target: Text | None = setting("Class of the tracker. null: none.", when_absent=None, alias="_target_")

    TARGETS: ClassVar = {"dialog_trainer.tracking.tensorboard.TensorBoardLogger": TensorBoardKeys}

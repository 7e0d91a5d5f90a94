"""Every option: its type, range, one-line description with unit, and what changing it means for a resumed run.

There are no defaults here: `conf/` holds them. Code reads `config.optim.lr0`; `Config.replace` validates a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from dialog_trainer.config.command_groups import NO_REPORT, NO_SWEEP, ReportConfig, ResumeConfig, Runs, SweepConfig
from dialog_trainer.config.commands import Command, Mode, find_command
from dialog_trainer.config.fields import (
    MAX_COUNT,
    Count,
    CountOr0,
    Device,
    Flag,
    FlagOrAuto,
    Fraction,
    Interval,
    Later,
    MicroBatchTokens,
    Name,
    Positive,
    Record,
    Steps,
    Texts,
    Whole,
    setting,
)
from dialog_trainer.config.frozen import nest, set_key, thaw
from dialog_trainer.config.groups import DataConfig, LoggerConfig, MaskScheduleConfig, OptimConfig, SchedulerConfig
from dialog_trainer.config.metrics_group import ChatConfig, MetricsConfig
from dialog_trainer.config.model_group import ModelConfig
from dialog_trainer.config.table import construct, read, values_of
from dialog_trainer.config.versions import upgrade
from dialog_trainer.errors import ConfigError

# The version of `args.yaml`. 1 (not written there): the runs before the schema existed.
SCHEMA_VERSION = 2
DEFAULT_FORWARD_TOKENS = 4096


class FiguresConfig(Record):
    enabled: Flag = setting("Draw figures of the schedules and curves into the run's folder.", when_absent=True)
    format: Literal["png", "svg", "pdf"] = setting("File format of the figures.", when_absent="png")


class Config(Record):
    """The validated configuration of one command."""

    mode: Mode = setting(
        "What to do: train, resume, validate, chat with or export a saved run, before_after (what training changed, with an "
        "adapter), report (compare runs), inspect (show which tokens carry the loss), or verify_resume (check that a resume "
        "is exact here).",
        per_command=True,
    )
    project: Name = setting('Folder of runs; any path without ":" and "..". null: outputs/<name of the model>.')
    name: Name = setting(
        "Folder of the run in the project, one path part; if taken, the next free <name>2, <name>3 ... "
        "null: <name of the data>_chatbot."
    )
    seed: Annotated[Whole, Ge(0), Le(MAX_COUNT)] = setting(
        "Seed of the order of the data, of dropout and of new weights.", "inexact"
    )
    deterministic: Flag = setting("Use deterministic kernels, so that a run is reproducible bit for bit.", "inexact")
    device: Device = setting(
        "Where to compute. auto: cuda, else mps, else cpu. With a list, one process for each device.", "inexact"
    )
    processes: Annotated[Whole, Ge(1), Le(1024)] = setting(
        "CPU processes that share each batch and each validation. On GPUs there is one for each device named.",
        "inexact",
    )
    threads: Annotated[Whole, Ge(1), Le(1024)] | None = setting(
        "CPU threads of each process. null: its part of the cores, fixed at the start.", "inexact", when_absent=None
    )
    port: Annotated[Whole, Ge(1024), Le(65535)] | None = setting(
        "TCP port of the rendezvous of one machine's processes. null: a file instead of a port.", per_command=True
    )
    parallel: Literal["ddp", "fsdp"] = setting(
        "How processes hold the model: ddp (a replica each) or fsdp (a shard each, for a model too large for one GPU).",
        "inexact",
    )
    distributed_timeout_seconds: Positive = setting(
        "Seconds after which a process that does not answer ends the run.", per_command=True
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "Autocast precision of training; weights and scores stay fp32. auto: bf16 where it is native and faster.",
        "inexact",
    )
    compile: FlagOrAuto = setting(
        "torch.compile the blocks of the model. auto: on CUDA, not on a CPU; decided at the first start.", "inexact"
    )
    steps: Steps = setting("Updates (optimizer steps) of the run, counted from its first start.")
    schedule_steps: Steps | None = setting(
        "Updates over which learning rate and mask are planned. null: as steps, fixed at the first start."
    )
    whole_epochs: Flag = setting(
        "Round steps up to whole epochs, and follow learning rate and mask past schedule_steps, as the original program.",
        when_absent=False,
    )
    batch_size: Count = setting(
        "Sequences (a dialogue, or a part of a long one) in one update, over all processes.", "inexact"
    )
    micro_batch_tokens: MicroBatchTokens = setting(
        "Most tokens in one forward pass, at least model.max_len: bounds memory, changes the result by rounding and "
        "dropout noise only. auto: what fits, fixed at the first start.",
        "inexact",
    )
    activation_checkpointing: Flag = setting(
        "Recompute activations in the backward pass: less memory, more time.", "free"
    )
    max_grad_norm: Positive | None = setting(
        "Largest gradient norm; above it the gradient is scaled down. null: never."
    )
    train_user_turn_mask_step: Fraction = setting(
        "Progress at which mask_schedule=step (reverse_step, random_turns) changes the mask. 0: from the start. 1: never."
    )
    patience: CountOr0 = setting(
        "Validations in a row without a better loss or score before an early stop, counted once the mask is final. "
        "0: never stop early."
    )
    validate_every_n_steps: Interval | None = setting(
        "Updates between validations, the last included. epoch: once an epoch. null: so, at most about 20 times a run."
    )
    save_every_n_steps: Count | None = setting("Updates between saves besides those at validations. null: none.")
    save_every_minutes: Positive | None = setting(
        "Minutes after which a step is followed by a save, counted from the last one. null: no limit.", when_absent=None
    )
    keep_checkpoints: Count = setting(
        "Newest checkpoints that are kept, besides the best ones: a damaged one is replaced by the one before it.",
        when_absent=2,
    )
    nan_policy: Literal["stop", "skip"] = setting(
        "What to do where the loss or its gradient is not finite: stop the run, or skip the update.",
        "inexact",
        when_absent="stop",
    )
    max_skipped_updates: Count = setting(
        "With nan_policy=skip: updates skipped in a row after which the run stops.", when_absent=10
    )
    log_every_n_steps: Count = setting("Updates between training rows of metrics.jsonl.")
    prediction_print_n: CountOr0 = setting(
        "Sample replies kept at each validation; of a new best and at the end the screen shows two, the log all."
    )
    resume_model_dir: Name | None = setting(
        "The run folder of mode=resume, validate and chat. null with mode=train.", per_command=True
    )
    load_model_type: Literal["metric", "loss", "last"] = setting(
        "Its checkpoint to load: metric (best score), loss (best loss) or last.", per_command=True
    )
    split: Literal["train", "validation", "test"] = setting(
        "The dialogues that mode=validate scores.", per_command=True
    )
    compare_with: Name | None = setting(
        "Run folder, or validation folder of a run, whose scores mode=validate compares with. null: none.",
        per_command=True,
    )
    runs: Runs | None = setting(
        "What mode=report compares, and mode=validate scores in one go: the folder of a sweep, or run folders, folders of "
        "them or patterns. null: none.",
        per_command=True,
        when_absent=None,
    )
    ui: Annotated[Literal["terminal"], Later(("web",))] = setting("Where mode=chat talks.", per_command=True)
    progress: Fraction | None = setting(
        "Progress of training that mode=inspect shows. null: the start, the last change of the mask, and the end."
    )
    inspect_dialogues: Annotated[Whole, Ge(1), Le(5000)] = setting(
        "Dialogues on the page of mode=inspect: a fixed sample, the longest, some truncated, some without a trained token."
    )
    allow_targets: Texts = setting(
        "Dotted names of your own code that a config file may use, as [my_package.MyOptimizer]. They run as code.",
        per_command=True,
    )
    resume: ResumeConfig = setting("How mode=resume goes on.", per_command=True, when_absent={"in_place": False})
    report: ReportConfig = setting("The report on runs.", per_command=True, when_absent=NO_REPORT)
    sweep: SweepConfig = setting("How the jobs of a sweep are run.", per_command=True, when_absent=NO_SWEEP)
    model: ModelConfig = setting("The model.")
    data: DataConfig = setting("The dialogues.")
    optim: OptimConfig = setting("The optimizer.")
    scheduler: SchedulerConfig = setting("The learning-rate schedule.")
    mask_schedule: MaskScheduleConfig = setting("Which turns carry the loss, and when.")
    metrics: MetricsConfig = setting("Scores and curves.")
    chat: ChatConfig = setting("The chat.", per_command=True)
    figures: FiguresConfig = setting("Figures.")
    logger: LoggerConfig = setting("A tracker besides metrics.jsonl.")

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Config:
        """The configuration that `to_dict` gave, or that a run of an earlier version saved. Raises `ConfigError`."""
        return cls.read(upgrade(cls, tree, SCHEMA_VERSION))

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> Config:
        """Validates each value of a whole tree by itself. Raises `ConfigError` with all errors."""
        reading = read(cls, tree)
        if reading.errors:
            raise ConfigError(reading.errors)
        return construct(cls, reading.values)

    @property
    def command(self) -> Command:
        """The record of `mode`."""
        return find_command(self.mode)

    @property
    def saved_run(self) -> Path:
        """The folder of the run that a command works on; `.` where it works on none."""
        return Path(self.resume_model_dir or "")

    @property
    def planned_steps(self) -> int:
        """Updates over which learning rate and mask are planned."""
        return self.schedule_steps or self.steps

    @property
    def forward_tokens(self) -> int:
        """Most tokens in one forward pass; `auto`, where nothing was measured, is the default of conf/."""
        default = max(DEFAULT_FORWARD_TOKENS, self.model.max_len)
        return default if self.micro_batch_tokens == "auto" else self.micro_batch_tokens

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and texts, as `args.yaml` holds them; `schema_version` comes first."""
        return {"schema_version": SCHEMA_VERSION, **nest(self.flat())}

    def flat(self) -> dict[str, Any]:
        """Dotted keys to plain values, in the order of the schema."""
        return {key: thaw(value) for key, value in values_of(self).items()}

    def replace(self, changes: Mapping[str, Any]) -> Config:
        """A copy with other values at dotted keys, as `{"optim.lr0": 1e-3}`, validated. Raises `ConfigError`."""
        tree = nest(self.flat())
        for key, value in changes.items():
            set_key(tree, key, value)
        return type(self).read(tree)

"""Builds a validation from the configuration: its reply protocol, its plan, and the signature of its scores."""

from __future__ import annotations

from collections import Counter

from transformers import PreTrainedModel

from dialog_trainer import __version__
from dialog_trainer.build.data import Split
from dialog_trainer.config.schema import Config
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.evaluation.evaluator import ValidationPlan, ValidationResult, evaluate
from dialog_trainer.evaluation.original.protocol import OriginalProtocol
from dialog_trainer.evaluation.progress import Progress
from dialog_trainer.evaluation.protocols import ReplyProtocol, ReplySettings, TurnProtocol
from dialog_trainer.metrics.registry import Score, load_extra_metrics
from dialog_trainer.model.generation.sampling import Decoding
from dialog_trainer.types import Role


def build_protocol(config: Config) -> ReplyProtocol:
    generation = config.metrics.generation
    if generation.max_new_tokens is None:
        raise ValueError("metrics.generation.max_new_tokens is null")
    # Sampling at temperature 0 is greedy.
    kind = "greedy" if generation.decoding == "sample" and not generation.temperature else generation.decoding
    reply_settings = ReplySettings(
        role=Role[config.mask_schedule.trained_role.upper()],
        max_new_tokens=generation.max_new_tokens,
        window=config.model.max_len,
        batch_tokens=generation.batch_tokens,
        decoding=Decoding(kind, generation.temperature, generation.top_p, generation.beams),
        seed=config.seed,
    )
    if config.metrics.protocol == "original":
        return OriginalProtocol(reply_settings)
    return TurnProtocol(config.metrics.protocol, reply_settings)


def known_metrics(config: Config) -> dict[str, Score]:
    """The built-in scores and those of `metrics.extra`. Raises `ConfigError` if one cannot be imported."""
    return load_extra_metrics(config.metrics.extra)


def select_metrics(config: Config) -> dict[str, Score]:
    """The scores of `metrics.names`, in this order."""
    known = known_metrics(config)
    return {name: known[name] for name in config.metrics.names}


def build_validation_plan(config: Config) -> ValidationPlan:
    metrics = config.metrics
    return ValidationPlan(
        protocol=build_protocol(config),
        metrics=select_metrics(config),
        max_dialogues=metrics.max_dialogues,
        max_seconds=metrics.max_seconds if config.command.trains else None,  # bounds training's alone
        max_tokens=config.forward_tokens,
    )


def run_validation(
    config: Config, model: PreTrainedModel, tokenizer: DialogueTokenizer, split: Split, progress: Progress
) -> ValidationResult | None:
    """A validation of the model on a split; None on a stop request."""
    return evaluate(model, tokenizer, split.dialogues, split.tokens, build_validation_plan(config), progress)


def build_signature(config: Config, split: Split, result: ValidationResult) -> str:
    """How the scores of a validation were made, and from which data."""
    plan = build_validation_plan(config)
    counts = Counter(len(reply.accepted_texts()) for reply in result.replies) or Counter([1])
    references = "-".join(str(count) for count in sorted({min(counts), max(counts)}))
    rules = [plan.protocol.describe_scores(plan.metrics)]
    if any(metric.from_loss for metric in plan.metrics.values()):
        rules.insert(0, f"ppl[of:{plan.protocol.settings.role.name.lower()}+end|tok:model]")
    return (
        f"{plan.protocol.signature()}|refs:{references}|dialogues:{result.num_replied}/{len(split.dialogues)}"
        + (f"|max_seconds:{plan.max_seconds:g}" if plan.max_seconds else "")
        + f"|data:{split.dialogues.digest[:12]}|version:{__version__} "
        + " ".join(rules)
    )

"""Builds a validation from the configuration: its reply protocol, its plan, and the signature of its scores."""

from __future__ import annotations

from collections import Counter

from transformers import PreTrainedModel

from dialog_trainer import __version__
from dialog_trainer.build.data import Split
from dialog_trainer.config.options import Settings
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.evaluation.evaluator import ValidationPlan, ValidationResult, evaluate
from dialog_trainer.evaluation.original.protocol import OriginalProtocol
from dialog_trainer.evaluation.progress import Progress
from dialog_trainer.evaluation.protocols import ReplyProtocol, ReplySettings, TurnProtocol
from dialog_trainer.metrics.registry import Score, load_extra_metrics
from dialog_trainer.model.generation.sampling import Decoding
from dialog_trainer.types import Role


def build_protocol(settings: Settings) -> ReplyProtocol:
    metrics = settings["metrics"]
    reply_settings = ReplySettings(
        role=Role[settings["mask_schedule"]["trained_role"].upper()],
        max_new_tokens=metrics["max_new_tokens"],
        window=settings["model"]["max_len"],
        batch_tokens=metrics["batch_tokens"],
        decoding=Decoding(
            metrics["decoding"], float(metrics["temperature"]), float(metrics["top_p"]), metrics["beams"]
        ),
        seed=settings["seed"],
    )
    if metrics["protocol"] == "original":
        return OriginalProtocol(reply_settings)
    return TurnProtocol(metrics["protocol"], reply_settings)


def known_metrics(settings: Settings) -> dict[str, Score]:
    """The built-in scores and those of `metrics.extra`. Raises `ConfigError` if one cannot be imported."""
    return load_extra_metrics(settings["metrics"].get("extra") or ())


def select_metrics(settings: Settings) -> dict[str, Score]:
    """The scores of `metrics.names`, in this order."""
    known = known_metrics(settings)
    return {name: known[name] for name in settings["metrics"]["names"]}


def build_validation_plan(settings: Settings) -> ValidationPlan:
    metrics = settings["metrics"]
    return ValidationPlan(
        protocol=build_protocol(settings),
        metrics=select_metrics(settings),
        max_dialogues=metrics["max_dialogues"],
        max_seconds=None if settings["mode"] == "validate" else metrics["max_seconds"],  # bounds training's alone
        max_tokens=settings["micro_batch_tokens"],
    )


def run_validation(
    settings: Settings, model: PreTrainedModel, tokenizer: DialogueTokenizer, split: Split, progress: Progress
) -> ValidationResult | None:
    """A validation of the model on a split; None on a stop request."""
    return evaluate(model, tokenizer, split.dialogues, split.tokens, build_validation_plan(settings), progress)


def build_signature(settings: Settings, split: Split, result: ValidationResult) -> str:
    """How the scores of a validation were made, and from which data."""
    plan = build_validation_plan(settings)
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

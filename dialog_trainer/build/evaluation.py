"""A validation, as the settings ask for it: how replies are made, and the signature of its scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from transformers import PreTrainedModel
from dialog_trainer import __version__
from dialog_trainer.build.data import Split
from dialog_trainer.config.options import Settings
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.evaluation.evaluator import ValidationResult
from dialog_trainer.evaluation.evaluator import evaluate
from dialog_trainer.evaluation.original.scores import SIGNATURE
from dialog_trainer.evaluation.protocols import ReplySettings
from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.metrics.registry import SCORES
from dialog_trainer.metrics.registry import describe_scores
from dialog_trainer.model.generation.sampling import Decoding
from dialog_trainer.types import Role



def build_reply_settings(settings: Settings) -> ReplySettings:
    metrics = settings["metrics"]
    return ReplySettings(
        protocol=metrics["protocol"],
        role=Role[settings["mask_schedule"]["trained_role"].upper()],
        max_new_tokens=metrics["max_new_tokens"],
        window=settings["model"]["max_len"],
        batch_tokens=metrics["batch_tokens"],
        decoding=Decoding(
            metrics["decoding"], float(metrics["temperature"]), float(metrics["top_p"]), metrics["beams"]
        ),
        seed=settings["seed"],
    )


def run_validation(
    settings: Settings,
    of: PreTrainedModel,
    words: DialogueTokenizer,
    split: Split,
    *,
    stage: Callable[[str, int], Callable[[int], None]],
    stopped: Callable[[], bool],
) -> ValidationResult | None:
    """A validation of the model on a split; None once `stopped()`."""
    metrics, how = settings["metrics"], build_reply_settings(settings)
    return evaluate(
        of,
        words,
        split.dialogues,
        split.tokens,
        how,
        names=metrics["names"],
        max_dialogues=metrics["max_dialogues"],
        max_seconds=_max_seconds(settings),
        max_tokens=settings["micro_batch_tokens"],
        stage=stage,
        stopped=stopped,
    )


def _max_seconds(settings: Settings) -> float | None:
    """Only a validation in training is bounded."""
    return None if settings["mode"] == "validate" else settings["metrics"]["max_seconds"]


def build_signature(settings: Settings, split: Split, result: ValidationResult) -> str:
    """How the scores of a validation were made, and of what."""
    counts = Counter(len(reply.targets()) for reply in result.replies) or Counter([1])
    references = "-".join(str(count) for count in sorted({min(counts), max(counts)}))
    bounded = _max_seconds(settings)
    how, names = build_reply_settings(settings), settings["metrics"]["names"]
    rules = [SIGNATURE if how.protocol == "original" else describe_scores(n for n in SCORES if n in names)]
    if PERPLEXITIES.keys() & set(names):
        rules.insert(0, f"ppl[of:{how.role.name.lower()}+end|tok:model]")
    return (
        f"{how.signature()}|refs:{references}|dialogues:{result.num_replied}/{len(split.dialogues)}"
        + (f"|max_seconds:{bounded:g}" if bounded else "")
        + f"|data:{split.dialogues.digest[:12]}|version:{__version__} "
        + " ".join(rules)
    )

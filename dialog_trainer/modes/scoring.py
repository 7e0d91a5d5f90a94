"""A validation, as the settings ask for it: how replies are made, and the signature of its scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from transformers import PreTrainedModel

from dialog_trainer import __version__
from dialog_trainer.data.vocabulary import Vocabulary
from dialog_trainer.evaluation.protocols import Replying
from dialog_trainer.evaluation.validation import Validation, validate
from dialog_trainer.experiment import Split
from dialog_trainer.metrics.loss import PERPLEXITIES
from dialog_trainer.metrics.original import SIGNATURE as ORIGINAL
from dialog_trainer.metrics.scores import SCORES
from dialog_trainer.metrics.scores import signature as score_signature
from dialog_trainer.model.choosing import Decoding
from dialog_trainer.options import Settings
from dialog_trainer.records import Role


def replying(settings: Settings) -> Replying:
    metrics = settings["metrics"]
    return Replying(
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


def validated(
    settings: Settings,
    of: PreTrainedModel,
    words: Vocabulary,
    split: Split,
    *,
    stage: Callable[[str, int], Callable[[int], None]],
    stopped: Callable[[], bool],
) -> Validation | None:
    """A validation of the model on a split; None once `stopped()`."""
    metrics, how = settings["metrics"], replying(settings)
    return validate(
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


def signature(settings: Settings, split: Split, result: Validation) -> str:
    """How the scores of a validation were made, and of what."""
    counts = Counter(len(reply.targets()) for reply in result.replies) or Counter([1])
    references = "-".join(str(count) for count in sorted({min(counts), max(counts)}))
    bounded = _max_seconds(settings)
    how, names = replying(settings), settings["metrics"]["names"]
    rules = [ORIGINAL if how.protocol == "original" else score_signature(n for n in SCORES if n in names)]
    if PERPLEXITIES.keys() & set(names):
        rules.insert(0, f"ppl[of:{how.role.name.lower()}+end|tok:model]")
    return (
        f"{how.signature()}|refs:{references}|dialogues:{result.num_replied}/{len(split.dialogues)}"
        + (f"|max_seconds:{bounded:g}" if bounded else "")
        + f"|data:{split.dialogues.digest[:12]}|version:{__version__} "
        + " ".join(rules)
    )

"""Builds a validation from the configuration: its reply protocol, its plan, and the signature of its scores."""

from __future__ import annotations

from collections import Counter

from transformers import PreTrainedModel

from dialog_trainer import __version__
from dialog_trainer.build.data import Split
from dialog_trainer.build.decoding import build_decoding
from dialog_trainer.config.schema import Config
from dialog_trainer.data.dataset import DialogueDataset
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import collectives
from dialog_trainer.errors import ConfigError
from dialog_trainer.evaluation.evaluator import ValidationPlan, ValidationResult, evaluate
from dialog_trainer.evaluation.original.protocol import OriginalProtocol
from dialog_trainer.evaluation.progress import Progress
from dialog_trainer.evaluation.protocols import ReplyProtocol, ReplySettings, TurnProtocol
from dialog_trainer.files import cache_key
from dialog_trainer.metrics.registry import Score, build_scores, load_extra_metrics
from dialog_trainer.metrics.tokenize import MIN_WORDS, choose_tokenizer, describe_unfit, joins_words, split_words
from dialog_trainer.types import Role, Say

# Held-out dialogues, the first ones, whose script chooses the tokenizer of words.
MAX_SCRIPT_DIALOGUES = 1000


def build_protocol(config: Config) -> ReplyProtocol:
    generation = config.metrics.generation
    if generation.max_new_tokens is None:
        raise ValueError("metrics.generation.max_new_tokens is null")
    reply_settings = ReplySettings(
        role=Role[config.mask_schedule.trained_role.upper()],
        max_new_tokens=generation.max_new_tokens,
        window=config.model.max_len,
        batch_tokens=generation.batch_tokens,
        decoding=build_decoding(generation),
        seed=config.seed,
    )
    if config.metrics.protocol == "original":
        clean_up = config.metrics.original_clean_up
        return OriginalProtocol(reply_settings, config.batch_size if clean_up else 60, clean_up)
    return TurnProtocol(config.metrics.protocol, reply_settings)


def known_metrics(config: Config) -> dict[str, Score]:
    """The built-in scores and those of `metrics.extra`. Raises `ConfigError` if one cannot be imported.

    `metrics.tokenize` must be resolved.
    """
    return load_extra_metrics(config.metrics.extra, build_scores(config.metrics.tokenize))


def resolve_word_tokenizer(config: Config, held_out: DialogueDataset, say: Say) -> Config:
    """The configuration with a name for `metrics.tokenize=auto`, by the script of the held-out replies, and says so.

    Says too where the tokenizer does not fit them. Raises `ConfigError` for a score that needs words where there are none.
    """
    if config.metrics.protocol == "original":  # its words are the tokens of the model
        return config.replace({"metrics.tokenize": "13a"}) if config.metrics.tokenize == "auto" else config
    texts = _sample_replies(config, held_out)
    tokenizer: str = config.metrics.tokenize
    if not texts and len(held_out) <= MAX_SCRIPT_DIALOGUES:
        say(
            "note: no dialogue of this split has a reply to score: scores of replies are missing, and best_metric is the "
            "checkpoint with the lowest loss"
        )
        return config.replace({"metrics.tokenize": "13a"}) if tokenizer == "auto" else config
    if tokenizer == "auto":
        tokenizer, script = collectives.broadcast_from_rank0(lambda: choose_tokenizer(texts))
        unit = " (by characters)" if tokenizer in ("zh", "char") else ""
        say(f"scores: words by sacrebleu's tokenizer {tokenizer}{unit}, for {script} (metrics.tokenize=auto)")
        errors = describe_unfit(tokenizer, config.metrics.names)
        if errors:
            raise ConfigError(errors)
        config = config.replace({"metrics.tokenize": tokenizer})
    elif joins_words(texts, tokenizer):
        say(
            f"warning: metrics.tokenize={tokenizer} takes texts without spaces as one word each: scores of words mean "
            "nothing for these replies; pass metrics.tokenize=auto"
        )
        others = [name for name in config.metrics.names if name != "ppl_word"]
        if others and not config.command.trains and "ppl_word" in config.metrics.names:
            say("ppl_word is left out: these texts have no words to count")
            config = config.replace({"metrics.names": others})
    words = sum(len(split_words(text, tokenizer)) for text in texts) / max(1, len(texts))
    if texts and words < MIN_WORDS:
        say(
            f"warning: the replies of this split have {words:.1f} words each on average ({tokenizer}): BLEU and NIST of pairs "
            "of words stay near 0, also for perfect replies; read chrf, or pass metrics.tokenize=char"
        )
    return config


def _sample_replies(config: Config, held_out: DialogueDataset) -> list[str]:
    """The turns that replies are scored against, of the first dialogues of a split."""
    role = Role[config.mask_schedule.trained_role.upper()] if config.metrics.protocol == "response" else None
    return [
        turn.text
        for index in range(min(len(held_out), MAX_SCRIPT_DIALOGUES))
        for turn in held_out[index].turns[1:]
        if role in (None, turn.role)
    ]


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
        words=metrics.tokenize,
    )


def run_validation(
    config: Config, model: PreTrainedModel, tokenizer: DialogueTokenizer, split: Split, progress: Progress
) -> ValidationResult | None:
    """A validation of the model on a split; None on a stop request."""
    return evaluate(model, tokenizer, split.dialogues, split.tokens, build_validation_plan(config), progress)


def digest_request(config: Config, step: int, data: str) -> str:
    """A digest of all that the scores of a run's checkpoint depend on before they are computed: its `step`, the digest of
    the `data`, and the options that a score depends on."""
    prefixes = ("metrics.", "data.", "model.", "mask_schedule.trained_role", "seed", "split", "batch_size")
    options = {key: value for key, value in config.flat().items() if key.startswith(prefixes)}
    machine = ("data.workers", "data.cache_dir")
    return cache_key(__version__, step, data, sorted((k, str(v)) for k, v in options.items() if k not in machine))


def build_signature(config: Config, split: Split, result: ValidationResult) -> str:
    """How the scores of a validation were made, and from which data."""
    plan = build_validation_plan(config)
    counts = Counter(len(reply.accepted_texts()) for reply in result.replies) or Counter([1])
    references = "-".join(str(count) for count in sorted({min(counts), max(counts)}))
    rules = [plan.protocol.describe_scores(plan.metrics)]
    if any(metric.from_loss for metric in plan.metrics.values()):
        words = f"|words:{plan.words}" if "ppl_word" in plan.metrics and plan.words != "13a" else ""
        rules.insert(0, f"ppl[of:{plan.protocol.settings.role.name.lower()}+end|tok:model{words}]")
    return (
        f"{plan.protocol.signature()}|refs:{references}|dialogues:{result.num_replied}/{len(split.dialogues)}"
        + (f"|max_seconds:{plan.max_seconds:g}" if plan.max_seconds else "")
        + f"|data:{split.dialogues.digest[:12]}|version:{__version__} "
        + " ".join(rules)
    )

"""The groups metrics and chat: scores, curves, and how replies are generated."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from dialog_trainer.config.fields import (
    Count,
    Curve,
    Flag,
    Length,
    Positive,
    Probability,
    Record,
    Scores,
    ScoreWeights,
    Temperature,
    Text,
    Texts,
    Whole,
    setting,
)


class GenerationConfig(Record):
    """How replies are generated, in a validation and in a chat."""

    max_new_tokens: Count | None = setting(
        "Longest reply, in tokens; at most model.max_len - 2. Longer contexts lose whole turns from the left. "
        "null (chat alone): as metrics.generation.max_new_tokens."
    )
    decoding: Literal["greedy", "sample", "beam"] = setting(
        "How a token is chosen: greedy, sample (with a seed for each reply) or beam (beam search; not in a chat)."
    )
    temperature: Temperature = setting("Sampling temperature. 0: greedy.")
    top_p: Probability = setting(
        "Nucleus (top-p) sampling: draw from the smallest set of tokens with this probability. 1: from all tokens."
    )
    beams: Annotated[Whole, Ge(2), Le(64)] = setting("Beam width of decoding=beam.")
    batch_tokens: Length = setting(
        "Most tokens in one batch of generation, context and reply; at least model.max_len. Bounds memory, not the result."
    )


class MetricsConfig(Record):
    common: tuple[Curve, ...] = setting("Quantities of training that are drawn as curves.")
    names: Scores = setting("Scores of a validation.")
    best: ScoreWeights = setting(
        "What best_metric means: a sum of scores, each with its weight. A dict on the command line replaces this one."
    )
    tokenize: Literal["auto", "13a", "intl", "zh", "char", "ja-mecab", "ko-mecab"] = setting(
        "Words of scores: a tokenizer of sacrebleu. auto: by the script of the references 13a (Latin), zh (Chinese), char "
        "(Japanese, Korean and others without spaces, or the analyzer where one is installed) or intl (the rest).",
        when_absent="13a",
    )
    extra: Texts = setting(
        "Metrics of your own, as dotted names; the last part is the name of the score.", when_absent=()
    )
    max_dialogues: Count | None = setting(
        "Dialogues replied to in a validation, a fixed sample. null: the whole split. The loss is over all dialogues."
    )
    protocol: Literal["response", "all_turns", "rollout", "original"] = setting(
        "Which turns are generated: response (those of the trained role), all_turns, rollout (the model plays both "
        "roles) or original (the original program's rule)."
    )
    original_clean_up: Flag = setting(
        "protocol=original: decode rows as the original's version of transformers does, without spaces before punctuation, "
        "and score them in batches of batch_size. false: as they are, in batches of 60, as before version 0.3.",
        when_absent=False,
    )
    max_seconds: Positive | None = setting(
        "Seconds after which a validation during training starts no further replies, and scores those done. null: no limit."
    )
    generation: GenerationConfig = setting("How replies are generated in a validation.")


class ChatConfig(Record):
    system: Text | None = setting(
        "The system turn at the beginning of a chat, for a chat format that has one. null: none.",
        per_command=True,
        when_absent=None,
    )
    generation: GenerationConfig = setting(
        "How replies are generated in a chat.",
        per_command=True,
        when_absent={"decoding": "sample", "beams": 4, "batch_tokens": 8192},
    )

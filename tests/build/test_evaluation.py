"""The plan of a validation and the signature of its scores."""

from types import SimpleNamespace

import pytest

from dialog_trainer import __version__
from dialog_trainer.build.evaluation import (
    build_protocol,
    build_signature,
    build_validation_plan,
    resolve_word_tokenizer,
)
from dialog_trainer.config.schema import Config
from dialog_trainer.errors import ConfigError
from dialog_trainer.evaluation.evaluator import ValidationPlan
from dialog_trainer.evaluation.original.protocol import OriginalProtocol
from dialog_trainer.evaluation.protocols import ReplySettings, TurnProtocol
from dialog_trainer.metrics.registry import SCORES, describe_scores
from dialog_trainer.model.generation.sampling import Decoding
from dialog_trainer.types import Dialogue, Reply, Role, Turn
from tests.helpers.configs import compose_config

pytestmark = pytest.mark.slow

PROTOCOLS = ("response", "all_turns", "rollout", "original")


class Table(SimpleNamespace):
    def __len__(self) -> int:
        return self.size


def config_of(*overrides: str, mode: str = "validate") -> Config:
    return compose_config("model.max_len=64", "metrics.tokenize=13a", *overrides).replace({"mode": mode})


def split(digest: str = "0123456789abcdef", size: int = 9):
    return SimpleNamespace(dialogues=Table(digest=digest, size=size), tokens="tokens")


def result(num_replied: int = 4, references: tuple[int, ...] = (0, 0)):
    replies = [Reply("d", 1, ("a",), "b", "c", True, ("r",) * count) for count in references]
    return SimpleNamespace(replies=replies, num_replied=num_replied)


def of(*overrides: str, mode: str = "validate", data=None, made=None) -> str:
    return build_signature(config_of(*overrides, mode=mode), data or split(), made or result())


def test_a_signature_in_full():
    rule = "protocol:response|role:assistant|context:gold|decode:greedy|max_new:40|window:64|truncation:whole turns from the left"
    assert of("metrics.names=[ppl,bleu2,nist2]") == (
        f"{rule}|refs:1|dialogues:4/9|data:0123456789ab|version:{__version__} ppl[of:assistant+end|tok:model] "
        "bleu[case:lc|tok:13a|smooth:exp] nist[case:lc|tok:13a|rule:mteval]"
    )
    assert of("metrics=original") == (
        "protocol:original|context:first turn|decode:greedy|row:64|truncation:end of the row|refs:1|dialogues:4/9"
        f"|data:0123456789ab|version:{__version__} ppl[of:assistant+end|tok:model] "
        "case:mixed|tok:model|clean:transformers 4.28|rule:nltk|smooth:none|rows:whole|batch:60"
    )


SAMPLED = ("metrics.decoding=sample", "metrics.temperature=0.7")
# What changes the numbers, and so the signature.
CHANGES = [
    ((), ("mask_schedule.trained_role=user",)), ((), ("model.max_len=60",)), ((), ("metrics.max_new_tokens=39",)),
    ((), ("metrics.decoding=sample",)), ((), ("metrics.decoding=beam",)), (SAMPLED, ("seed=1",)),
    (SAMPLED, ("metrics.temperature=0.8",)), (SAMPLED, ("metrics.top_p=0.9",)),
    (("metrics.decoding=beam",), ("metrics.beams=3",)), ((), ("metrics.names=[ppl,bleu2,chrf]",)),
    ((), ("metrics.tokenize=zh",)), (("metrics.names=[ppl_word]",), ("metrics.tokenize=intl",)),
    (("metrics=original",), ("batch_size=7",)), (("metrics=original",), ("metrics.original_clean_up=false",)),
    # The loss is of the trained role whoever replies.
    (("metrics=all_turns",), ("mask_schedule.trained_role=user",)),
    (("metrics=original",), ("mask_schedule.trained_role=user",)),
    *(((f"metrics={one}",), (f"metrics={other}",)) for one in PROTOCOLS for other in PROTOCOLS if one != other),
]  # fmt: skip
# What changes no number.
SAME = [
    ((), ("metrics.decoding=sample", "metrics.temperature=0")),
    ((), ("seed=1",)), ((), ("metrics.temperature=0.7", "metrics.top_p=0.5", "metrics.beams=2")),
    (SAMPLED, ("metrics.beams=2",)), (("metrics.decoding=beam",), ("metrics.temperature=0.7", "seed=1")),
    ((), ("metrics.batch_tokens=100", "micro_batch_tokens=100", "batch_size=3", "steps=5", "optim.lr0=1")),
    ((), ("metrics.best={bleu4: 2}", "metrics.common=[lr]", "prediction_print_n=0", "name=other", "split=test")),
    ((), ("metrics.names=[nist4,ppl,nist2,bleu4]",)), ((), ("metrics.original_clean_up=false",)),
    (("metrics=original", "metrics.original_clean_up=false"), ("batch_size=7",)), (("metrics=original",), ("metrics.tokenize=zh",)),
    (("metrics.names=[ppl,chrf]",), ("metrics.tokenize=zh",)),
    ((), ("metrics.names=[ppl,bleu2,nist2]", "metrics.max_dialogues=3", "metrics.max_seconds=1")),
    (("metrics=original",), ("metrics.max_new_tokens=3", "metrics.decoding=sample", "seed=2")),
    (("metrics=all_turns", "metrics.names=[bleu2]"), ("mask_schedule.trained_role=user",)),
    (("metrics=rollout", "metrics.names=[bleu2]"), ("mask_schedule.trained_role=user",)),
]  # fmt: skip


@pytest.mark.parametrize(("base", "change"), CHANGES)
def test_other_numbers_have_another_signature(base, change):
    assert of(*base) != of(*base, *change)


@pytest.mark.parametrize(("base", "change"), SAME)
def test_equal_numbers_have_an_equal_signature(base, change):
    assert of(*base) == of(*base, *change)


def test_data_and_number_of_dialogues_are_named():
    base = of()
    assert of(data=split(digest="0123456789abzzzz")) == base  # twelve places tell it apart
    assert of(data=split(digest="0123456789azzzzz")) != base
    assert "|dialogues:4/8|" in of(data=split(size=8))
    assert "|dialogues:3/9|" in of(made=result(num_replied=3))


@pytest.mark.parametrize(
    ("references", "text"),
    [((), "1"), ((0, 0), "1"), ((5, 5), "5"), ((5, 0), "1-5"), ((3, 5, 4), "3-5"), ((1, 1), "1")],
)
def test_the_number_of_references_is_named(references, text):
    assert f"|refs:{text}|" in of(made=result(references=references))


@pytest.mark.parametrize("mode", ["train", "resume", "validate"])
def test_time_is_bounded_in_training_only(mode):
    for option in ("metrics.max_seconds=2.5", "metrics.max_seconds=null"):
        config = config_of(option, mode=mode)
        bounded = option.endswith("2.5") and mode != "validate"
        assert build_validation_plan(config).max_seconds == (2.5 if bounded else None)
        assert ("|max_seconds:2.5|" in build_signature(config, split(), result())) == bounded
        assert ("max_seconds" in build_signature(config, split(), result())) == bounded


def test_a_plan_follows_the_configuration():
    config = config_of(
        "metrics=rollout", "metrics.names=[bleu2,chrf]", "metrics.max_dialogues=7", "micro_batch_tokens=99"
    )
    metrics = {name: SCORES[name] for name in ("bleu2", "chrf")}
    assert build_validation_plan(config) == ValidationPlan(build_protocol(config), metrics, 7, None, 99, "13a")


def test_reply_settings_follow_the_configuration():
    options = ("mask_schedule.trained_role=user", "metrics.max_new_tokens=9", "metrics.batch_tokens=70")
    sampled = ("metrics.decoding=sample", "metrics.temperature=2", "metrics.top_p=0.5", "metrics.beams=3", "seed=11")
    settings = ReplySettings(Role.USER, 9, 64, 70, Decoding("sample", 2.0, 0.5, 3), 11)
    protocol = build_protocol(config_of("metrics=all_turns", *options, *sampled))
    assert protocol == TurnProtocol("all_turns", settings)
    assert type(protocol.settings.decoding.temperature) is float
    assert settings.max_context_tokens() == 55
    assert isinstance(build_protocol(config_of("metrics=original")), OriginalProtocol)


def test_each_score_names_its_rule():
    names = ["bleu2", "chrf", "length", "distinct1"]
    assert of(f"metrics.names=[{','.join(names)}]").endswith(f"|version:{__version__} {describe_scores(names)}")


CHINESE, ENGLISH = "我明天早上八点去图书馆还书。", "I will go there at eight."


def resolved(*overrides: str, texts=(ENGLISH, CHINESE), mode: str = "train") -> tuple[Config, list[str]]:
    """`texts`: turns of user, assistant ... of one held-out dialogue."""
    turns = tuple(Turn(Role.ASSISTANT if index % 2 else Role.USER, text) for index, text in enumerate(texts))
    said: list[str] = []
    config = config_of("metrics.tokenize=auto", *overrides, mode=mode)
    return resolve_word_tokenizer(config, [Dialogue("d", turns)], said.append), said


@pytest.mark.parametrize(
    ("overrides", "texts", "tokenizer", "said"),
    [
        ((), (CHINESE, ENGLISH), "13a", ["scores: words by sacrebleu's tokenizer 13a, for Latin script"]),
        ((), (ENGLISH, CHINESE), "zh", ["scores: words by sacrebleu's tokenizer zh (by characters), for Chinese"]),
        (("mask_schedule.trained_role=user",), (ENGLISH, CHINESE, ENGLISH), "13a", ["tokenizer 13a"]),
        (("metrics.tokenize=zh",), (ENGLISH, CHINESE), "zh", []),
        (("metrics.tokenize=13a",), (ENGLISH, CHINESE), "13a", ["metrics.tokenize=13a takes texts without spaces as one", "have 1.0 words"]),
        ((), (ENGLISH, "yes", ENGLISH, "no"), "13a", ["tokenizer 13a", "have 1.0 words each on average (13a)"]),
        (("metrics=original",), (ENGLISH, CHINESE), "13a", []),
        ((), (CHINESE,), "13a", ["no dialogue of this split has a reply to score"]),
        (("metrics.tokenize=zh",), (CHINESE,), "zh", ["no dialogue of this split has a reply to score"]),
    ],
)  # fmt: skip
def test_the_tokenizer_of_words_is_that_of_the_replies(overrides, texts, tokenizer, said):
    config, lines = resolved(*overrides, texts=texts)
    assert config.metrics.tokenize == tokenizer
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


def test_perplexity_of_words_without_words():
    with pytest.raises(ConfigError, match=r"ppl_word has no meaning with metrics\.tokenize=zh"):
        resolved("metrics.names=[ppl,ppl_word]", "metrics.best={ppl: -1}")
    # A run saved before the option existed is scored over 13a; only mode=validate changes what it computes.
    old = ("metrics.names=[ppl,ppl_word]", "metrics.best={ppl: -1}", "metrics.tokenize=13a")
    assert resolved(*old, mode="resume")[0].metrics.names == ("ppl", "ppl_word")
    config, said = resolved(*old, mode="validate")
    assert config.metrics.names == ("ppl",)
    assert said[1] == "ppl_word is left out: these texts have no words to count"

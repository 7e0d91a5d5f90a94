"""Replies for the tests of metrics."""

from collections.abc import Sequence

from hypothesis import strategies as st

from dialog_trainer.types import Reply

WORDS = ("The", "the", "cat", "sat", "on", "mat", ".", ",", "I'm", "$5.50", "고양이")
TEXT = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
# Texts of replies, each with one to three references.
PAIRS = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=8)


def reply(text: str, *references: str, dialogue: str = "a", turn: int = 1, history=("hello",), ended=True) -> Reply:
    """One reference is the gold reply, as in data without further references."""
    others = references if len(references) > 1 else ()
    return Reply(dialogue, turn, tuple(history), references[0] if references else "gold", text, ended, others)


def replies_of(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[Reply]:
    return [reply(text, *those) for text, those in zip(texts, references, strict=True)]

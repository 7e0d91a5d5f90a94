"""Made-up dialogues as spans of tokens."""

from hypothesis import strategies as st

from dialog_trainer.data.formatting import make_spans
from dialog_trainer.types import Role, SpecialTokens

SPECIAL = SpecialTokens(start=1, separator=2, end=3, pad=0)
U, A, S = Role.USER, Role.ASSISTANT, Role.SYSTEM


@st.composite
def dialogues(draw):
    """Turns whose ids count up from 10, so that every token is unique; roles in any order."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    alternating = st.just([A if index % 2 else U for index in range(len(lengths))])
    any_roles = st.lists(st.sampled_from([U, A, S]), min_size=len(lengths), max_size=len(lengths))
    texts, first = [], 10
    for length in lengths:
        texts.append(range(first, first + length))
        first += length
    return make_spans(texts, draw(st.one_of(alternating, any_roles)), SPECIAL.separator)

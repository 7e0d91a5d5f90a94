"""The context of a reply."""

from helpers.dialogues import SPECIAL, U, dialogues
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data.formatting import format_context


@settings(deadline=None, max_examples=300)
@given(dialogues(), st.integers(2, 40))
def test_context_is_the_end_of_the_dialogue_in_complete_turns(turns, max_tokens):
    ids = format_context(turns, SPECIAL, max_tokens)
    everything = [token for turn in turns for token in turn.ids]
    assert ids[0] == SPECIAL.start
    assert len(ids) <= max_tokens
    assert ids[1:] == everything[len(everything) - len(ids) + 1 :]
    rests = [turns[number:] for number in range(len(turns)) if number == 0 or turns[number].role == U]
    lengths = [length for rest in rests if (length := sum(len(turn.ids) for turn in rest)) < max_tokens]
    # The longest part that fits and starts at a user turn; else the last turn, or its end.
    assert len(ids) - 1 == max(lengths, default=min(max_tokens - 1, len(turns[-1].ids)))

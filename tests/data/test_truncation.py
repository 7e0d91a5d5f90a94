"""Truncation: golden sequences of the original program, and the promises of each policy for any dialogue."""

import json
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from helpers.dialogues import SPECIAL, A, U, dialogues
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data.formatting import end_span, make_spans
from dialog_trainer.data.truncation import TRUNCATIONS, split
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import step
from dialog_trainer.types import Role, TurnSpans

# Three dialogues of DailyDialog's test split as the original program lays them out (ljm565/multi-turn-chatbot-GPT2
# @1c35475) with the ids of GPT-2, and the places that it trains after the switch. Numbers alone: the text is not ours.
SHORT = [50257, 464, 17536, 6643, 389, 319, 5587, 757, 764, 50258, 2061, 329, 5633, 50258, 2990, 765, 262, 1230, 284,
         4646, 262, 2756, 286, 262, 21408, 764, 50258, 1026, 318, 1107, 257, 3024, 21219, 764, 50258, 50256]  # fmt: skip
USER_LAST = [50257, 6090, 314, 423, 262, 4836, 286, 2646, 4166, 994, 5633, 50258, 19457, 306, 286, 1781, 764, 50258,
             4342, 318, 262, 2646, 764, 1680, 314, 651, 616, 5986, 9439, 5633, 50258, 19457, 764, 50258, 23937, 314,
             765, 734, 9088, 286, 477, 262, 5205, 764, 50258, 50256]  # fmt: skip
LONG = [50257, 23722, 314, 423, 616, 2855, 837, 3387, 5633, 50258, 36001, 837, 15967, 764, 50258, 40, 1101, 7787, 612,
        338, 587, 257, 7457, 764, 50258, 40, 1101, 7926, 837, 15967, 764, 1867, 2331, 284, 307, 262, 5876, 5633, 50258,
        40, 1975, 345, 423, 5047, 502, 5403, 329, 262, 976, 1517, 764, 6803, 837, 262, 3785, 286, 718, 13, 20, 8872,
        3568, 994, 837, 788, 757, 994, 764, 50258, 40, 1183, 655, 467, 290, 2198, 340, 329, 345, 837, 15967, 764,
        50258, 50256]  # fmt: skip


def original_labels(sequence, progress, pad):
    """Labels of the original program: the id where it is trained, else the padding id."""
    columns = zip(*((span.role, span.turn, len(span.ids), span.lost) for span in sequence.spans), strict=True)
    count = len(sequence.spans)
    spans = TurnSpans(*map(np.array, columns), np.ones(count, dtype=np.float32), np.array([count]), np.array([0]))
    mask = Mask(partial(step, train_user_turn_mask_step=0.5))
    weights, _ = mask.weigh_tokens(spans, mask.weigh_roles(progress))
    return [token if weight else pad for token, weight in zip(sequence.ids, weights, strict=True)]


def original_sequence(tokenizer, texts, max_len):
    turns = tokenizer.chat_format.encode_turns(texts, [A if index % 2 else U for index in range(len(texts))])
    (sequence,) = TRUNCATIONS["keep_start"](turns, tokenizer.special_tokens, max_len)
    return sequence


@pytest.mark.parametrize(
    ("full", "max_len", "length", "trained"),
    [
        (SHORT, 64, 36, [*range(10, 14), *range(27, 36)]),
        (SHORT, 128, 36, [*range(10, 14), *range(27, 36)]),
        (USER_LAST, 64, 46, [*range(12, 18), *range(31, 34), 45]),
        (USER_LAST, 128, 46, [*range(12, 18), *range(31, 34), 45]),
        (LONG, 64, 64, [*range(10, 15), *range(25, 39)]),
        (LONG, 128, 82, [*range(10, 15), *range(25, 39), *range(68, 82)]),
    ],
)
def test_golden_sequence_and_labels(gpt2_tokenizer, full, max_len, length, trained):
    texts = " ".join(map(str, full[1:-2])).split(" 50258 ")
    texts = [gpt2_tokenizer.decode(map(int, text.split())) for text in texts]
    sequence = original_sequence(gpt2_tokenizer, texts, max_len)
    assert sequence.ids == full[:length]
    labels = original_labels(sequence, 0.5, gpt2_tokenizer.pad_id)
    assert [place for place, label in enumerate(labels) if label != gpt2_tokenizer.pad_id] == trained
    # In the first phase all is a label; that of [CLS] is not predicted from anything.
    assert original_labels(sequence, 0.49, gpt2_tokenizer.pad_id)[1:] == full[1:length]


def test_all_golden_sequences(gpt2_tokenizer, real_data):
    golden = json.loads((real_data.parent / "golden/sequences.json").read_text())
    with (real_data / "dailydialog/test.jsonl").open() as file:
        dialogues = [json.loads(line)["turns"] for line in file]
    pad = gpt2_tokenizer.pad_id
    for max_len, rows in golden["max_len"].items():
        for row in rows:
            sequence = original_sequence(gpt2_tokenizer, dialogues[row["dialogue"]], int(max_len))
            padding = [pad] * (int(max_len) - len(sequence.ids))
            assert sequence.ids + padding == row["input_ids"]
            assert original_labels(sequence, 0.5, pad) + padding == row["labels"]


@settings(deadline=None, max_examples=400)
@given(dialogues(), st.integers(2, 40), st.sampled_from(sorted(TRUNCATIONS)))
def test_every_policy_at_every_length(turns, max_len, policy):
    sequences = TRUNCATIONS[policy](turns, SPECIAL, max_len)
    for number, sequence in enumerate(sequences):
        assert 1 < len(sequence.ids) <= max_len
        assert len(sequence.ids) == len(sequence.roles) == len(sequence.turns)
        assert (sequence.ids[0], sequence.roles[0], sequence.turns[0]) == (
            SPECIAL.start,
            Role.FORMAT,
            sequence.turns[1],
        )
        assert SPECIAL.start not in sequence.ids[1:]
        assert SPECIAL.end not in sequence.ids[:-1]
        assert sequence.ids[-1] != SPECIAL.end or number == len(sequences) - 1
        # [CLS] first; a turn that lost all its tokens comes before the next kept one.
        assert [span.role for span in sequence.spans].count(Role.FORMAT) == 1
        order = [span.turn for span in sequence.spans[1:]]
        assert order == sorted(order)
    spans = [span for sequence in sequences for span in sequence.spans if span.role != Role.FORMAT]
    # Each turn once, in order: its beginning or its end, and the number of tokens that are missing.
    assert [(span.turn, span.role) for span in spans[:-1]] == [(turn.turn, turn.role) for turn in turns]
    for turn, span in zip(turns, spans, strict=False):
        assert span.ids in (turn.ids[: len(span.ids)], turn.ids[len(turn.ids) - len(span.ids) :])
        assert len(span.ids) + span.lost == len(turn.ids)
    # The end of text is the last span, kept or lost.
    end = end_span(turns, SPECIAL)
    assert (spans[-1].role, spans[-1].turn) == (Role.END, turns[-1].turn)
    assert (spans[-1].ids, spans[-1].lost) in [(end.ids, 0), ((), 1)]


@settings(deadline=None, max_examples=300)
@given(dialogues(), st.integers(2, 40))
def test_keep_start_and_keep_end_keep_the_ends(turns, max_len):
    everything = [token for turn in turns for token in turn.ids] + [SPECIAL.end]
    (start,) = TRUNCATIONS["keep_start"](turns, SPECIAL, max_len)
    (end,) = TRUNCATIONS["keep_end"](turns, SPECIAL, max_len)
    assert start.ids == [SPECIAL.start, *everything][:max_len]
    assert end.ids == [SPECIAL.start, *everything[-(max_len - 1) :]]


@settings(deadline=None, max_examples=400)
@given(dialogues(), st.integers(2, 40))
def test_split_keeps_complete_turns(turns, max_len):
    sequences = split(turns, SPECIAL, max_len)
    has_user = any(turn.role == U for turn in turns)
    for number, sequence in enumerate(sequences):
        first = turns[sequence.turns[1]]
        assert first.role == U or first.turn == 0 or not has_user or number == 0
    kept = [token for sequence in sequences for token in sequence.ids[1:] if token != SPECIAL.end]
    everything = [token for turn in turns for token in turn.ids]
    firsts = [number for number, turn in enumerate(turns) if turn.role == U]
    groups = [turns[a:b] for a, b in zip([0, *firsts[1:]], [*firsts[1:], len(turns)], strict=True)]
    cut = [
        group
        for number, group in enumerate(groups)
        if sum(len(turn.ids) for turn in group) + 1 + (number == len(groups) - 1) > max_len
    ]
    if not cut:
        assert kept == everything
        assert sequences[-1].ids[-1] == SPECIAL.end
    else:
        assert (sequences[-1].ids[-1] == SPECIAL.end) == (
            sequences[-1].ids[1:][-1 - len(turns[-1].ids) : -1] == list(turns[-1].ids)
        )
        assert len(kept) < len(everything) or cut == [groups[-1]]
        # What is kept is in order, and every exchange that fits is complete.
        assert [token for token in kept if token != SPECIAL.separator] == sorted(
            t for t in kept if t != SPECIAL.separator
        )
        whole_groups = [group for group in groups if group not in cut]
        assert all(token in kept for group in whole_groups for turn in group for token in turn.ids)


def exchange(*lengths):
    texts, first = [], 10
    for length in lengths:
        texts.append(list(range(first, first + length)))
        first += length
    return make_spans(texts, [A if index % 2 else U for index in range(len(lengths))], SPECIAL.separator)


@pytest.mark.parametrize(
    ("lengths", "max_len", "expected"),
    [
        # It fits, to the token; one token less and the next exchange starts a sequence of its own.
        ((2, 1, 1, 1), 11, [[1, 10, 11, 2, 12, 2, 13, 2, 14, 2, 3]]),
        ((2, 1, 1, 1), 10, [[1, 10, 11, 2, 12, 2], [1, 13, 2, 14, 2, 3]]),
        # A long reply loses its end and its separator, and with it the end of the text.
        ((1, 9), 8, [[1, 10, 2, 11, 12, 13, 14, 15]]),
        # A long question loses its beginning.
        ((9, 1), 8, [[1, 16, 17, 18, 2, 19, 2, 3]]),
        # Both are long: each gets half.
        ((9, 9), 9, [[1, 16, 17, 18, 2, 19, 20, 21, 22]]),
        # Room for one token.
        ((3, 3), 2, [[1, 10]]),
    ],
)
def test_split_cuts(lengths, max_len, expected):
    assert [sequence.ids for sequence in split(exchange(*lengths), SPECIAL, max_len)] == expected


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=5), st.booleans(), st.data())
def test_cut_turns_get_equal_lengths(lengths, followed, data):
    """`followed`: by another exchange, so that the end of the text is not at stake."""
    texts = [[100 * number + place for place in range(10, 10 + length)] for number, length in enumerate(lengths)]
    roles = [U, *[A] * (len(lengths) - 1)]
    turns = make_spans([*texts, *[[9]] * followed], [*roles, *[U] * followed], SPECIAL.separator)
    exchange = turns[: len(lengths)]
    total = sum(len(turn.ids) for turn in exchange)
    max_len = data.draw(st.integers(2, max(2, total + 1 - followed)))
    sequence = split(turns, SPECIAL, max_len)[0]
    ends = sequence.ids[-1] == SPECIAL.end
    text = list(zip(sequence.ids, sequence.turns, strict=True))[1 : len(sequence.ids) - ends]
    kept = [tuple(token for token, turn in text if turn == number) for number in range(len(exchange))]
    room = max_len - 1 - ends
    present = min(room, len(exchange))
    assert [bool(turn) for turn in kept] == [number < present for number in range(len(exchange))]
    assert sum(map(len, kept)) == min(room, total)
    for number in range(present - 1):
        assert kept[number] == exchange[number].ids[-len(kept[number]) :]
    assert kept[present - 1] == exchange[present - 1].ids[: len(kept[present - 1])]
    # No turn is cut below another that keeps more, but for one token that cannot be shared: the later turn has it.
    for number in range(present):
        if len(kept[number]) < len(exchange[number].ids):
            assert all(len(earlier) <= len(kept[number]) for earlier in kept[:number])
            assert all(len(later) <= len(kept[number]) + 1 for later in kept[number:])


@settings(deadline=None, max_examples=300)
@given(dialogues(), st.integers(2, 40))
def test_split_makes_as_few_sequences_as_possible(turns, max_len):
    sequences = split(turns, SPECIAL, max_len)
    for first, second in pairwise(sequences):
        begun = next(turn for turn in turns if turn.turn == second.turns[0])
        rest = turns[begun.turn :]
        stop = next((n for n, turn in enumerate(rest) if n and turn.role == U), len(rest))
        ends = stop == len(rest)
        assert len(first.ids) + sum(len(turn.ids) for turn in rest[:stop]) + ends > max_len
        assert begun.role == U


@pytest.mark.parametrize(
    ("policy", "lengths", "max_len", "expected"),
    [
        # [CLS] u u [SEP] a [SEP] <end>, complete.
        ("keep_start", (2, 1), 7, [[(Role.FORMAT, 0, 1, 0), (U, 0, 3, 0), (A, 1, 2, 0), (Role.END, 1, 1, 0)]]),
        ("keep_start", (2, 1), 6, [[(Role.FORMAT, 0, 1, 0), (U, 0, 3, 0), (A, 1, 2, 0), (Role.END, 1, 0, 1)]]),
        ("keep_start", (2, 1), 5, [[(Role.FORMAT, 0, 1, 0), (U, 0, 3, 0), (A, 1, 1, 1), (Role.END, 1, 0, 1)]]),
        ("keep_start", (2, 1), 3, [[(Role.FORMAT, 0, 1, 0), (U, 0, 2, 1), (A, 1, 0, 2), (Role.END, 1, 0, 1)]]),
        ("keep_end", (2, 1), 6, [[(Role.FORMAT, 0, 1, 0), (U, 0, 2, 1), (A, 1, 2, 0), (Role.END, 1, 1, 0)]]),
        ("keep_end", (2, 1), 3, [[(Role.FORMAT, 1, 1, 0), (U, 0, 0, 3), (A, 1, 1, 1), (Role.END, 1, 1, 0)]]),
        ("keep_end", (2, 1), 2, [[(Role.FORMAT, 1, 1, 0), (U, 0, 0, 3), (A, 1, 0, 2), (Role.END, 1, 1, 0)]]),
        # A dialogue of two sequences, its end in the second; and one whose last turns are lost.
        ("split", (2, 1, 1, 1), 10, [
            [(Role.FORMAT, 0, 1, 0), (U, 0, 3, 0), (A, 1, 2, 0)],
            [(Role.FORMAT, 2, 1, 0), (U, 2, 2, 0), (A, 3, 2, 0), (Role.END, 3, 1, 0)],
        ]),
        ("split", (3, 3), 2, [[(Role.FORMAT, 0, 1, 0), (U, 0, 1, 3), (A, 1, 0, 4), (Role.END, 1, 0, 1)]]),
        # The answer of the first exchange is lost: its span comes before the next kept turn, in the next sequence.
        ("split", (3, 3, 0, 0), 2, [
            [(Role.FORMAT, 0, 1, 0), (U, 0, 1, 3)],
            [(Role.FORMAT, 2, 1, 0), (A, 1, 0, 4), (U, 2, 1, 0), (A, 3, 0, 1), (Role.END, 3, 0, 1)],
        ]),
    ],
)  # fmt: skip
def test_spans_after_truncation(policy, lengths, max_len, expected):
    sequences = TRUNCATIONS[policy](exchange(*lengths), SPECIAL, max_len)
    assert [[(s.role, s.turn, len(s.ids), s.lost) for s in sequence.spans] for sequence in sequences] == expected

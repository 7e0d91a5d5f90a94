import json
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data.formatting import format_context, join_turns, make_turn_tokens
from dialog_trainer.data.truncation import TRUNCATIONS, Span, find_spans, split
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import step
from dialog_trainer.types import Role, SpecialTokens, TurnSpans

MARKS = SpecialTokens(start=1, separator=2, end=3, pad=0)
U, A, S = Role.USER, Role.ASSISTANT, Role.SYSTEM

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


def original_labels(sequence, turns, progress, pad):
    """Labels of the original program: the id where it is trained, else the padding id."""
    (spans,) = find_spans([sequence], turns)
    columns = (np.array([getattr(run, name) for run in spans]) for name in ("role", "turn", "length", "lost"))
    whole = TurnSpans(*columns, np.ones(len(spans), dtype=np.float32), np.array([len(spans)]), np.array([0]))
    mask = Mask(partial(step, train_user_turn_mask_step=0.5))
    weights, _ = mask.tokens(whole, mask.at(progress))
    return [token if weight else pad for token, weight in zip(sequence.ids, weights, strict=True)]


def original_sequence(tokenizer, texts, max_len):
    """The sequence of the original program, and the turns that it is made of."""
    roles = [A if index % 2 else U for index in range(len(texts))]
    special_tokens = tokenizer.special_tokens
    turns = make_turn_tokens(tokenizer.encode_batch(texts), roles, tokenizer.sep_id)
    return TRUNCATIONS["keep_start"](turns, special_tokens, max_len)[0], turns


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
    sequence, turns = original_sequence(gpt2_tokenizer, texts, max_len)
    assert sequence.ids == full[:length]
    labels = original_labels(sequence, turns, 0.5, gpt2_tokenizer.pad_id)
    assert [place for place, label in enumerate(labels) if label != gpt2_tokenizer.pad_id] == trained
    # In the first phase all is a label; that of [CLS] predicts nothing, for nothing stands before it.
    assert original_labels(sequence, turns, 0.49, gpt2_tokenizer.pad_id)[1:] == full[1:length]


def test_all_golden_sequences(gpt2_tokenizer, real_data):
    golden = json.loads((real_data.parent / "golden/sequences.json").read_text())
    with (real_data / "dailydialog/test.jsonl").open() as file:
        dialogues = [json.loads(line)["turns"] for line in file]
    pad = gpt2_tokenizer.pad_id
    for max_len, rows in golden["max_len"].items():
        for row in rows:
            sequence, turns = original_sequence(gpt2_tokenizer, dialogues[row["dialogue"]], int(max_len))
            padding = [pad] * (int(max_len) - len(sequence.ids))
            assert sequence.ids + padding == row["input_ids"]
            assert original_labels(sequence, turns, 0.5, pad) + padding == row["labels"]


@st.composite
def dialogues(draw):
    """Turns whose ids count up from 10, so that each token can be told from every other; roles in any order."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    roles = draw(
        st.one_of(
            st.just([A if index % 2 else U for index in range(len(lengths))]),
            st.lists(st.sampled_from([U, A, S]), min_size=len(lengths), max_size=len(lengths)),
        )
    )
    texts, first = [], 10
    for length in lengths:
        texts.append(list(range(first, first + length)))
        first += length
    return make_turn_tokens(texts, roles, MARKS.separator)


@settings(deadline=None, max_examples=300)
@given(dialogues(), st.integers(2, 40), st.sampled_from(sorted(TRUNCATIONS)))
def test_every_policy_at_every_length(turns, max_len, policy):
    sequences = TRUNCATIONS[policy](turns, MARKS, max_len)
    role_of_turn = {turn.index: turn.role for turn in turns}
    for number, sequence in enumerate(sequences):
        assert 1 < len(sequence.ids) <= max_len
        assert len(sequence.ids) == len(sequence.roles) == len(sequence.turns)
        assert (sequence.ids[0], sequence.roles[0]) == (MARKS.start, Role.START)
        assert MARKS.start not in sequence.ids[1:]
        assert MARKS.end not in sequence.ids[:-1]
        if sequence.ids[-1] == MARKS.end:
            assert number == len(sequences) - 1
            assert sequence.roles[-1] == Role.END
        for token, role, turn in list(zip(sequence.ids, sequence.roles, sequence.turns, strict=True))[1:]:
            assert token == MARKS.end or role == role_of_turn[turn]


@settings(deadline=None, max_examples=300)
@given(dialogues(), st.integers(2, 40))
def test_keep_start_and_keep_end_keep_the_ends(turns, max_len):
    full = join_turns(turns, MARKS, ends=True)
    (start,) = TRUNCATIONS["keep_start"](turns, MARKS, max_len)
    (end,) = TRUNCATIONS["keep_end"](turns, MARKS, max_len)
    assert start.ids == full.ids[:max_len]
    assert end.ids == [MARKS.start, *full.ids[1:][-(max_len - 1) :]]
    assert end.roles[1:] == full.roles[1:][-(max_len - 1) :]


@settings(deadline=None, max_examples=400)
@given(dialogues(), st.integers(2, 40))
def test_split_keeps_whole_turns_where_they_fit(turns, max_len):
    sequences = split(turns, MARKS, max_len)
    has_user = any(turn.role == U for turn in turns)
    for number, sequence in enumerate(sequences):
        first = turns[sequence.turns[1]]
        assert first.role == U or first.index == 0 or not has_user or number == 0
    kept = [token for sequence in sequences for token in sequence.ids[1:] if token != MARKS.end]
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
        assert sequences[-1].ids[-1] == MARKS.end
    else:
        assert (sequences[-1].ids[-1] == MARKS.end) == (
            sequences[-1].ids[1:][-1 - len(turns[-1].ids) : -1] == list(turns[-1].ids)
        )
        assert len(kept) < len(everything) or cut == [groups[-1]]
        # What is kept is in order, and every exchange that fits is whole.
        assert [token for token in kept if token != MARKS.separator] == sorted(t for t in kept if t != MARKS.separator)
        whole_groups = [group for group in groups if group not in cut]
        assert all(token in kept for group in whole_groups for turn in group for token in turn.ids)


def exchange(*lengths):
    texts, first = [], 10
    for length in lengths:
        texts.append(list(range(first, first + length)))
        first += length
    return make_turn_tokens(texts, [A if index % 2 else U for index in range(len(lengths))], MARKS.separator)


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
def test_how_split_cuts(lengths, max_len, expected):
    assert [sequence.ids for sequence in split(exchange(*lengths), MARKS, max_len)] == expected


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=5), st.booleans(), st.data())
def test_a_cut_exchange_shares_the_room_equally(lengths, followed, data):
    """`followed`: by another exchange, so that the end of the text is not at stake."""
    texts = [[100 * number + place for place in range(10, 10 + length)] for number, length in enumerate(lengths)]
    roles = [U, *[A] * (len(lengths) - 1)]
    turns = make_turn_tokens([*texts, *[[9]] * followed], [*roles, *[U] * followed], MARKS.separator)
    exchange = turns[: len(lengths)]
    total = sum(len(turn.ids) for turn in exchange)
    max_len = data.draw(st.integers(2, max(2, total + 1 - followed)))
    sequence = split(turns, MARKS, max_len)[0]
    ends = sequence.ids[-1] == MARKS.end
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
def test_split_makes_as_few_sequences_as_whole_exchanges_allow(turns, max_len):
    sequences = split(turns, MARKS, max_len)
    for first, second in pairwise(sequences):
        begun = next(turn for turn in turns if turn.index == second.turns[0])
        rest = turns[begun.index :]
        stop = next((n for n, turn in enumerate(rest) if n and turn.role == U), len(rest))
        ends = stop == len(rest)
        assert len(first.ids) + sum(len(turn.ids) for turn in rest[:stop]) + ends > max_len
        assert begun.role == U


@settings(deadline=None, max_examples=300)
@given(dialogues(), st.integers(2, 40))
def test_a_context_is_the_end_of_the_dialogue_in_whole_turns(turns, room):
    ids = format_context(turns, MARKS, room)
    everything = [token for turn in turns for token in turn.ids]
    assert ids[0] == MARKS.start
    assert len(ids) <= room
    assert ids[1:] == everything[len(everything) - len(ids) + 1 :]
    rests = [turns[number:] for number in range(len(turns)) if number == 0 or turns[number].role == U]
    lengths = [length for rest in rests if (length := sum(len(turn.ids) for turn in rest)) < room]
    # The longest part that fits and starts at a user turn; else the last turn, or its end.
    assert len(ids) - 1 == max(lengths, default=min(room - 1, len(turns[-1].ids)))


@settings(deadline=None, max_examples=200)
@given(dialogues(), st.integers(2, 40), st.sampled_from(sorted(TRUNCATIONS)))
def test_of_a_dialogue_no_turn_and_no_token_goes_missing_in_its_runs(turns, max_len, policy):
    sequences = TRUNCATIONS[policy](turns, MARKS, max_len)
    found = find_spans(sequences, turns)
    assert len(found) == len(sequences)
    for sequence, spans in zip(sequences, found, strict=True):
        assert [run.role for run in spans for _ in range(run.length)] == sequence.roles
        assert [run.turn for run in spans for _ in range(run.length)] == sequence.turns
        assert (spans[0].role, spans[0].length, spans[0].lost) == (Role.START, 1, 0)
        # A turn of which nothing is left stands before the one that follows it.
        order = [run.turn for run in spans[1:]]
        assert order == sorted(order)
    spoken = [run for spans in found for run in spans if run.role not in (Role.START, Role.END)]
    # Each turn once, in order, with as many tokens in all as it has.
    assert [(run.turn, run.role) for run in spoken] == [(turn.index, turn.role) for turn in turns]
    assert [run.length + run.lost for run in spoken] == [len(turn.ids) for turn in turns]
    assert all(run.length >= 0 and run.lost >= 0 for run in spoken)
    # Counted the slow way: the tokens of each turn that stand in some sequence.
    kept = [
        turn
        for sequence in sequences
        for turn, role in zip(sequence.turns, sequence.roles, strict=True)
        if role in (U, A, S)
    ]
    assert [run.length for run in spoken] == [kept.count(turn.index) for turn in turns]


@settings(deadline=None, max_examples=150)
@given(dialogues(), st.integers(2, 40), st.sampled_from(sorted(TRUNCATIONS)))
def test_the_end_of_a_dialogue_is_one_run_at_its_very_end_kept_or_lost(turns, max_len, policy):
    sequences = TRUNCATIONS[policy](turns, MARKS, max_len)
    found = find_spans(sequences, turns)
    ends = [
        (number, place) for number, spans in enumerate(found) for place, run in enumerate(spans) if run.role == Role.END
    ]
    assert ends == [(len(found) - 1, len(found[-1]) - 1)]
    is_kept = sequences[-1].ids[-1] == MARKS.end
    assert found[-1][-1] == Span(Role.END, turns[-1].index, int(is_kept), int(not is_kept))


@pytest.mark.parametrize(
    ("policy", "lengths", "max_len", "expected"),
    [
        # [CLS] u u [SEP] a [SEP] <end>, whole.
        ("keep_start", (2, 1), 7, [[(Role.START, 0, 1, 0), (U, 0, 3, 0), (A, 1, 2, 0), (Role.END, 1, 1, 0)]]),
        ("keep_start", (2, 1), 6, [[(Role.START, 0, 1, 0), (U, 0, 3, 0), (A, 1, 2, 0), (Role.END, 1, 0, 1)]]),
        ("keep_start", (2, 1), 5, [[(Role.START, 0, 1, 0), (U, 0, 3, 0), (A, 1, 1, 1), (Role.END, 1, 0, 1)]]),
        ("keep_start", (2, 1), 3, [[(Role.START, 0, 1, 0), (U, 0, 2, 1), (A, 1, 0, 2), (Role.END, 1, 0, 1)]]),
        ("keep_end", (2, 1), 6, [[(Role.START, 0, 1, 0), (U, 0, 2, 1), (A, 1, 2, 0), (Role.END, 1, 1, 0)]]),
        ("keep_end", (2, 1), 3, [[(Role.START, 1, 1, 0), (U, 0, 0, 3), (A, 1, 1, 1), (Role.END, 1, 1, 0)]]),
        ("keep_end", (2, 1), 2, [[(Role.START, 1, 1, 0), (U, 0, 0, 3), (A, 1, 0, 2), (Role.END, 1, 1, 0)]]),
        # A dialogue of two sequences, its end in the second; and one whose last turns are lost.
        ("split", (2, 1, 1, 1), 10, [
            [(Role.START, 0, 1, 0), (U, 0, 3, 0), (A, 1, 2, 0)],
            [(Role.START, 2, 1, 0), (U, 2, 2, 0), (A, 3, 2, 0), (Role.END, 3, 1, 0)],
        ]),
        ("split", (3, 3), 2, [[(Role.START, 0, 1, 0), (U, 0, 1, 3), (A, 1, 0, 4), (Role.END, 1, 0, 1)]]),
        # Of the first exchange the answer is lost: it stands before what follows, in the next sequence.
        ("split", (3, 3, 0, 0), 2, [
            [(Role.START, 0, 1, 0), (U, 0, 1, 3)],
            [(Role.START, 2, 1, 0), (A, 1, 0, 4), (U, 2, 1, 0), (A, 3, 0, 1), (Role.END, 3, 0, 1)],
        ]),
    ],
)  # fmt: skip
def test_the_runs_of_what_truncation_left(policy, lengths, max_len, expected):
    turns = exchange(*lengths)
    found = find_spans(TRUNCATIONS[policy](turns, MARKS, max_len), turns)
    assert [[(run.role, run.turn, run.length, run.lost) for run in spans] for spans in found] == expected

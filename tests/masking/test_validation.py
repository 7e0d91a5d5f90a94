from functools import partial

import numpy as np
import pytest
from helpers.masks import A, Piece, S, U, arrays, layouts, slow_trainable, slow_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.data.dataset import open_dialogues, open_tokens
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.errors import ConfigError, DataError
from dialog_trainer.masking.coverage import MaskCounts, count_coverage
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import constant, cosine, linear, piecewise, random_turns, reverse_step, step
from dialog_trainer.masking.timeline import build_timeline
from dialog_trainer.masking.validation import check_mask
from dialog_trainer.types import Role, TokenContract

STEP = Mask(partial(step, train_user_turn_mask_step=0.5))
MAX_LEN = 20
CONTRACT = TokenContract(dict.fromkeys((Role.USER, Role.ASSISTANT), frozenset([2])), dialogue_end=3, pad=0)
NO_START = "sequences that start with a turn, or with nothing"
OUTSIDE = "trained tokens outside the turns and ends"
NO_SEPARATOR = "trained turns without the token that ends them"
WRONG_END = "ends that are not one trained end-of-text token"
LOST_END = "complete dialogues without their end"
TRAINED_PAD = "trained padding tokens"
MISPLACED_END = "sequences whose end-of-text token is missing or out of place"


def trains(*roles):
    """A wrong mask: it trains these roles."""

    class Wrong(Mask):
        def weigh_spans(self, spans, role_weights):
            return np.isin(spans.roles, roles).astype(np.float32)

    return Wrong(STEP.schedule)


def start(*ids, turn=0):
    return Piece(Role.FORMAT, turn, ids)


def user(*ids, turn=0, lost=0, weight=1.0):
    return Piece(U, turn, ids, lost, weight)


def assistant(*ids, turn=1, lost=0, weight=1.0):
    return Piece(A, turn, ids, lost, weight)


def system(*ids, turn=0):
    return Piece(S, turn, ids)


def end(*ids, turn=1):
    return Piece(Role.END, turn, ids, 1 - min(1, len(ids)))


C, Q, R, E = start(1), user(10, 2), assistant(11, 2), end(3)
SOUND = [C, Q, R, E]
# Truncation left only a user turn.
UNTRAINED = [C, user(10, 11, 2), assistant(lost=4), end()]


def check(sequences, mask=STEP, *, dialogues=None, size=100, points=None, drop=True, max_len=MAX_LEN):
    """`check_mask` over `sequences` in chunks of `size`; the id of dialogue 3 is `d3`."""
    dialogues = list(range(len(sequences))) if dialogues is None else dialogues
    chunks = (
        (first, *arrays(sequences[first : first + size], dialogues[first : first + size]))
        for first in range(0, len(sequences), size)
    )
    return check_mask(
        chunks,
        mask,
        (mask.weigh_roles(1.0), mask.weigh_roles(0.0)) if points is None else points,
        contract=CONTRACT,
        max_len=max_len,
        drop_untrained=drop,
        dialogue_id=lambda index: f"d{index}",
    )


def broken_clauses(sequences, mask=STEP, **options):
    """The lines of the error, one for each broken clause."""
    with pytest.raises(DataError) as error:
        check(sequences, mask, **options)
    first, *lines = str(error.value).split("\n")
    assert first.startswith("the tokenized data break the contract of the mask")
    assert "remove that cache folder" in first
    return lines


@pytest.mark.parametrize(
    ("broken", "clause", "options"),
    [
        ([Q, R, E], NO_START, {}),
        ([start(), Q, R, E], NO_START, {}),
        ([C, system(9, 2), user(10, 2, turn=1), E], OUTSIDE, {"mask": trains(U, A, S, Role.END)}),
        ([C, user(10, 11), R, E], NO_SEPARATOR, {}),
        ([C, Q, assistant(11, 2, 12), E], NO_SEPARATOR, {}),
        ([C, Q, assistant(2, 11), E], NO_SEPARATOR, {"points": (STEP.weigh_roles(1.0),)}),
        # A complete turn has it at the end of a sequence too: a full one, or one whose dialogue continues in the next.
        ([C, Q, assistant(11, 12), end()], NO_SEPARATOR, {"max_len": 5}),
        ([C, Q, assistant(11, 12)], NO_SEPARATOR, {"dialogues": [4, 5, 6, 6, 8]}),
        # A truncated turn with something behind it lost its beginning, so it must have its end.
        ([C, user(10, 11, lost=3), R, E], NO_SEPARATOR, {}),
        ([C, user(10, 11, lost=3), assistant(lost=2), user(9, 2, turn=2), E], NO_SEPARATOR, {}),
        ([C, Q, R, end(4)], WRONG_END, {}),
        ([C, Q, R, end(2)], WRONG_END, {}),
        ([C, Q, R, end(3, 3)], WRONG_END, {}),
        ([C, Q, R, end()], LOST_END, {}),
        ([C, Q, R, end()], LOST_END, {"max_len": 6}),
        ([C, Q, assistant(0, 2), E], TRAINED_PAD, {}),
        ([C, user(0, 2), R, E], TRAINED_PAD, {"points": (STEP.weigh_roles(1.0), STEP.weigh_roles(0.0))}),
        ([C, Q, R], MISPLACED_END, {}),
        ([C, Q, R, E, E], MISPLACED_END, {}),
        ([C, Q, E, R], MISPLACED_END, {}),
        (SOUND, MISPLACED_END, {"dialogues": [4, 5, 6, 6, 8]}),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_broken_clause_is_named_with_the_dialogue(broken, clause, options, size):
    options = {"dialogues": [4, 5, 6, 7, 8], **options}
    lines = broken_clauses([SOUND, SOUND, broken, SOUND, SOUND], size=size, **options)
    assert lines == [f"  - {clause}: 1, first in dialogue d6"]


def test_ends_are_trained_at_every_point():
    """A mask without weight on ends at the last point."""

    class Forgetful(Mask):
        def weigh_spans(self, spans, role_weights):
            return np.where(
                (spans.roles == Role.END) & (role_weights.user == 0), 0, Mask.weigh_spans(self, spans, role_weights)
            )

    assert broken_clauses([SOUND, SOUND], Forgetful(STEP.schedule)) == [f"  - {WRONG_END}: 2, first in dialogue d0"]


def test_what_the_format_adds_is_never_trained():
    lines = broken_clauses([SOUND] * 3, trains(A, Role.FORMAT, Role.END))
    assert lines == [f"  - {OUTSIDE}: 3, first in dialogue d0"]


FINAL = {"points": (STEP.weigh_roles(1.0),)}


@pytest.mark.parametrize(
    ("sequence", "options"),
    [
        (SOUND, {}),
        (SOUND, {"max_len": 6}),
        # An untrained turn needs no separator, and may contain any token.
        ([C, user(10, 11), R, E], FINAL),
        ([C, user(0, 0), R, E], FINAL),
        ([C, system(9, 0), user(10, 2, turn=1), E], {}),
        ([C, user(10, 11, weight=0.0), R, E], {}),
        # Truncation took the end of the last turn, and with it the end of text; or turns before it.
        ([C, Q, assistant(11, lost=5), end()], {}),
        ([C, Q, assistant(11, lost=5), user(lost=3, turn=2), end()], {}),
        ([C, user(10, 2, lost=5), R, E], {}),
        ([C, user(lost=5), R, E], {}),
        # The sequence is full: only the end of text is lost.
        ([C, Q, R, end()], {"max_len": 5}),
    ],
)
def test_sound_sequences_pass(sequence, options):
    kept = check([SOUND, sequence], **options)
    assert kept.indices.tolist() == [0, 1]
    assert kept.dropped == 0
    assert kept.counts.tokens.sum() == 6 + sum(len(piece.ids) for piece in sequence)


def test_dialogue_in_two_sequences_ends_with_the_second():
    first, second = [C, Q, R], [start(1, turn=2), user(10, 2, turn=2), assistant(11, 2, turn=3), end(3, turn=3)]
    assert check([first, second], dialogues=[0, 0]).indices.tolist() == [0, 1]
    assert broken_clauses([second, first], dialogues=[5, 5]) == [f"  - {MISPLACED_END}: 2, first in dialogue d5"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 7, 1000, 5000])
def test_all_broken_clauses_are_counted_at_once(size):
    sequences = [
        SOUND, SOUND, [Q, R, E], [C, user(10), R, E], [C, user(0, 2), R, E], [C, Q, R, end()], [C, Q, R], [C, Q, R, end(4)],
        *[[C, Q, assistant(0, 0, 11), E]] * 1200,
    ]  # fmt: skip
    assert sorted(broken_clauses(sequences, size=size)) == sorted(
        [
            f"  - {NO_START}: 1, first in dialogue d2",
            f"  - {NO_SEPARATOR}: 1,201, first in dialogue d3",
            f"  - {TRAINED_PAD}: 2,401, first in dialogue d4",
            f"  - {LOST_END}: 1, first in dialogue d5",
            f"  - {MISPLACED_END}: 1, first in dialogue d6",
            f"  - {WRONG_END}: 1, first in dialogue d7",
        ]
    )


@pytest.mark.parametrize("size", [1, 2, 100])
def test_untrained_sequences_are_dropped_and_counted(size):
    sequences = [UNTRAINED, SOUND, UNTRAINED, UNTRAINED, SOUND, SOUND]
    kept = check(sequences, size=size)
    assert kept.indices.tolist() == [1, 4, 5]
    assert kept.dropped == 3
    alone = check([SOUND] * 3)
    for name in MaskCounts.__slots__:
        assert np.array_equal(getattr(kept.counts, name), getattr(alone.counts, name)), name


@pytest.mark.parametrize("size", [1, 2, 100])
def test_untrained_sequences_are_refused(size):
    sequences = [SOUND, UNTRAINED, SOUND, UNTRAINED]
    with pytest.raises(ConfigError) as error:
        check(sequences, drop=False, size=size)
    assert error.value.errors == [
        "mask_schedule.untrained=refuse: 2 sequences have no assistant turn and no end of text, the first of dialogue "
        "d1; pass mask_schedule.untrained=drop, or correct the data"
    ]
    assert check([SOUND] * 2, drop=False).dropped == 0


def test_trained_role_decides_what_is_dropped():
    simulator = Mask(STEP.schedule, trained_role=U)
    answer_alone = [C, assistant(11, 12, 2, turn=0), user(lost=4, turn=1), end()]
    assert check([answer_alone, UNTRAINED]).indices.tolist() == [0]
    assert check([answer_alone, UNTRAINED], simulator).indices.tolist() == [1]
    with pytest.raises(
        ConfigError, match="1 sequences have no user turn and no end of text, the first of dialogue d0;"
    ):
        check([answer_alone, UNTRAINED], simulator, drop=False)


@pytest.mark.parametrize(("role", "name"), [(A, "assistant"), (U, "user")])
def test_at_least_one_sequence_must_be_left(role, name):
    cut_away = [C, system(9, 2), user(lost=3, turn=1), assistant(lost=3, turn=2), end(turn=2)]
    with pytest.raises(ConfigError) as error:
        check([cut_away] * 3, Mask(STEP.schedule, trained_role=role))
    assert error.value.errors == [
        f"mask_schedule: no sequence of the training split is left to train: 3 have no {name} turn and no end of text "
        "(or data weight 0), 0 dialogues are excluded by data.drop_leaks; correct the data or change "
        "mask_schedule.trained_role"
    ]


def test_broken_clauses_come_before_untrained_sequences():
    assert broken_clauses([UNTRAINED, [Q, R, E]], drop=False) == [f"  - {NO_START}: 1, first in dialogue d1"]


SCHEDULES = [
    partial(step, train_user_turn_mask_step=0.5),
    partial(reverse_step, train_user_turn_mask_step=0.5),
    partial(random_turns, train_user_turn_mask_step=0.5),
    partial(linear, start=0.25, end=0.75, start_weight=1.0, end_weight=0.0),
    partial(cosine, start=0.25, end=0.75, start_weight=1.0, end_weight=0.0),
    partial(constant, end_weight=0.1),
    partial(piecewise, points=[[0, 1, 0], [0.5, 1], [0.5, 0.1], [1, 0]]),
]
MASKS = st.builds(Mask, st.sampled_from(SCHEDULES), st.sampled_from([A, U]), st.booleans())


def points_of(mask, steps=20):
    """As for a run: the final weights, then each kind."""
    timeline = build_timeline(mask, steps)
    return (timeline.final, *(weights for _, weights in timeline.kinds))


@settings(deadline=None, max_examples=200)
@given(
    layouts(), MASKS.filter(lambda mask: not (mask.last_turn_only and "points" in mask.schedule.keywords)), st.data()
)
def test_formatted_dialogues_break_no_clause(layout, mask, data):
    """For every truncation, schedule and role; kept and counted sequences equal those of the slow reference."""
    points, expected = points_of(mask), [p for p in range(len(layout.tokens)) if slow_trainable(layout, p, mask)]
    limit = max(len(sequence.ids) for sequence in layout.tokens)
    options = {"dialogues": layout.dialogues, "points": points, "max_len": limit}
    size = data.draw(st.integers(1, len(layout.tokens)))
    if not expected:
        with pytest.raises(ConfigError, match="no sequence of the training split"):
            check(layout.pieces, mask, size=size, **options)
        return
    kept = check(layout.pieces, mask, size=size, **options)
    assert (kept.indices.tolist(), kept.dropped) == (expected, len(layout.tokens) - len(expected))
    trained = [sum(w > 0 for place in expected for w in slow_weights(layout, place, mask, at)) for at in points]
    assert kept.counts.trained.sum((1, 2)).tolist() == trained
    assert kept.counts.tokens.sum() == sum(len(layout.tokens[place].ids) for place in expected)


@pytest.fixture(scope="module")
def daily_dialog(real_data, gpt2_tokenizer, tmp_path_factory):
    """1,000 real dialogues as tokens, by truncation and maximum length."""
    cache = tmp_path_factory.mktemp("tokens")
    source = DailyDialog(str(real_data / "dailydialog"), "", None, "")
    dialogues = open_dialogues(source, "validation", cache, lambda line: None)

    def tokens(truncation, max_len):
        return open_tokens(
            dialogues, gpt2_tokenizer, max_len=max_len, truncation=truncation, workers=1, cache_dir=cache
        )

    return tokens


@pytest.mark.parametrize("truncation", ["split", "keep_start", "keep_end"])
@pytest.mark.parametrize("max_len", [8, 64])
def test_real_dialogues_break_no_clause(daily_dialog, gpt2_tokenizer, truncation, max_len):
    table = daily_dialog(truncation, max_len)
    every = list(zip(table.rows.column("roles"), table.rows.column("lengths"), strict=True))
    masks = [*map(Mask, SCHEDULES), Mask(SCHEDULES[0], U), Mask(SCHEDULES[2], U), Mask(SCHEDULES[0], A, True)]
    for mask in masks:
        kept = check_mask(
            table.chunks(300), mask, points_of(mask), contract=gpt2_tokenizer.chat_format.contract, max_len=max_len,
            drop_untrained=True, dialogue_id=str,
        )  # fmt: skip
        expected = [
            place
            for place, (roles, lengths) in enumerate(every)
            if any(length and of in (mask.trained_role, Role.END) for of, length in zip(roles, lengths, strict=True))
        ]
        assert kept.indices.tolist() == expected
        assert kept.dropped == len(table) - len(expected)
        _, spans = table.columns(expected)
        counts = count_coverage(spans, [mask.weigh_spans(spans, point) for point in points_of(mask)])
        for name in MaskCounts.__slots__:
            assert np.array_equal(getattr(kept.counts, name), getattr(counts, name)), name

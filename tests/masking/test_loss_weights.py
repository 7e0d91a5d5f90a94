import json
from functools import partial
from itertools import combinations, pairwise

import numpy as np
import pytest
from helpers.masks import A, S, Talk, U, arrays, cut, lay_out, layouts, slow_hash, slow_trainable, slow_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.masking import schedules
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights, random_turns
from dialog_trainer.types import Role, TurnSpans

C, E = Role.FORMAT, Role.END
ORIGINAL = Mask(partial(schedules.step, train_user_turn_mask_step=0.5))
# float32 holds these weights exactly.
WEIGHTS = st.sampled_from([0.0, 0.125, 0.5, 1.0])
MASKS = st.builds(
    lambda user, assistant, random, *options: Mask(lambda progress: RoleWeights(user, assistant, random), *options),
    WEIGHTS, WEIGHTS, st.booleans(), st.sampled_from([A, U]), st.booleans(), st.sampled_from(["token", "fixed", "turn"]),
)  # fmt: skip

# Two dialogues of DailyDialog's test split in the ids of GPT-2, as the original program lays them out.
USER_LAST = [50257, 6090, 314, 423, 262, 4836, 286, 2646, 4166, 994, 5633, 50258, 19457, 306, 286, 1781, 764, 50258,
             4342, 318, 262, 2646, 764, 1680, 314, 651, 616, 5986, 9439, 5633, 50258, 19457, 764, 50258, 23937, 314,
             765, 734, 9088, 286, 477, 262, 5205, 764, 50258, 50256]  # fmt: skip
SHORT = [50257, 464, 17536, 6643, 389, 319, 5587, 757, 764, 50258, 2061, 329, 5633, 50258, 2990, 765, 262, 1230, 284,
         4646, 262, 2756, 286, 262, 21408, 764, 50258, 1026, 318, 1107, 257, 3024, 21219, 764, 50258, 50256]  # fmt: skip


def constant_mask(user, assistant=1.0, random_roles=False, **options):
    return Mask(lambda progress: RoleWeights(user, assistant, random_roles), **options)


def weights_of(mask, spans, progress=0.0):
    return mask.weigh_tokens(spans, mask.weigh_roles(progress))[0].tolist()


def alternating(lengths, weights=None):
    roles = tuple(A if index % 2 else U for index in range(len(lengths)))
    return Talk(roles, tuple(lengths), tuple(weights or [1.0] * len(lengths)))


def only(*talks, truncation="keep_start", max_len=100):
    return lay_out(talks, truncation, max_len).arrays()[1]


@settings(deadline=None, max_examples=200)
@given(layouts(), MASKS)
def test_token_weights_equal_the_slow_reference(layout, mask):
    """All values of `normalize`, data weights, both trained roles, random roles, and the last turn only."""
    role_weights = mask.weigh_roles(0.0)
    weights, divisor = mask.weigh_tokens(layout.arrays()[1], role_weights)
    expected, total = [], 0.0
    for place, sequence in enumerate(layout.tokens):
        row = slow_weights(layout, place, mask, role_weights)
        if mask.normalize == "turn":
            spoken = [None if role == C else turn for role, turn in zip(sequence.roles, sequence.turns, strict=True)]
            row = [
                weight / spoken.count(turn) if turn is not None else 0.0
                for weight, turn in zip(row, spoken, strict=True)
            ]
        expected += row
        total += len(sequence.ids) if mask.normalize == "fixed" else sum(row)
    assert weights.dtype == np.float32
    assert weights.tolist() == np.array(expected, dtype=np.float32).tolist()
    assert divisor == pytest.approx(total, rel=1e-6, abs=1e-12)
    assert mask.find_trainable(layout.arrays()[1]).tolist() == [
        slow_trainable(layout, place, mask) for place in range(len(layout.tokens))
    ]


@settings(deadline=None, max_examples=80)
@given(layouts(min_size=2), MASKS, st.data())
def test_weights_do_not_depend_on_the_batch_and_divisors_add(layout, mask, data):
    role_weights, count = mask.weigh_roles(0.0), len(layout.tokens)
    order = data.draw(st.permutations(range(count)))
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), max_size=count - 1)))
    alone = [mask.weigh_tokens(layout.arrays([place])[1], role_weights) for place in range(count)]
    parts = [order[a:b] for a, b in pairwise([0, *cuts, count])]
    for part in parts:
        weights, divisor = mask.weigh_tokens(layout.arrays(part)[1], role_weights)
        assert weights.tolist() == [weight for place in part for weight in alone[place][0].tolist()]
        assert divisor == pytest.approx(sum(alone[place][1] for place in part), rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(layouts(weights=(0.0, 2.0, 1000.0)), MASKS)
def test_ends_have_weight_1_and_system_turns_and_cls_weight_0(layout, mask):
    _, spans = layout.arrays()
    weights = mask.weigh_spans(spans, mask.weigh_roles(0.0))
    assert (weights[spans.roles == E] == 1).all()
    assert (weights[np.isin(spans.roles, [C, S])] == 0).all()


@pytest.mark.parametrize(
    ("normalize", "user", "weights", "divisor", "loss"),
    [
        ("token", 0.5, [0, 0.5, 0.5, 0.5, 1, 1, 1], 4.5, 2.0),
        ("fixed", 0.5, [0, 0.5, 0.5, 0.5, 1, 1, 1], 7, 1.286),
        ("turn", 0.5, [0, 1 / 6, 1 / 6, 1 / 6, 1 / 3, 1 / 3, 1 / 3], 1.5, 2.0),
        ("token", 0.0, [0, 0, 0, 0, 1, 1, 1], 3, 2.0),
        ("fixed", 0.0, [0, 0, 0, 0, 1, 1, 1], 7, 0.857),
        ("turn", 0.0, [0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3], 1, 2.0),
    ],
)
def test_example_of_the_docstring(normalize, user, weights, divisor, loss):
    spans = only(alternating([2, 1]))
    mask = constant_mask(user, normalize=normalize)
    found, found_divisor = mask.weigh_tokens(spans, mask.weigh_roles(0.0))
    assert found.tolist() == pytest.approx(weights, rel=1e-6)
    assert found_divisor == pytest.approx(divisor, rel=1e-6)
    assert sum(2 * weight for weight in found.tolist()) / found_divisor == pytest.approx(loss, abs=5e-4)
    shares = {("token", 0.5): 1 / 4.5, ("token", 0.0): 1 / 3, ("turn", 0.5): 1 / 4.5, ("turn", 0.0): 1 / 3}
    assert found[-1] / found_divisor == pytest.approx(shares.get((normalize, user), 1 / 7), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, RoleWeights(0.25, 0.75, True)),
        ({"trained_role": U}, RoleWeights(0.75, 0.25, True)),
        # With the last turn only, no role is drawn.
        ({"last_turn_only": True}, RoleWeights(0.0, 0.75)),
        ({"last_turn_only": True, "trained_role": U}, RoleWeights(0.75, 0.0)),
    ],
)
def test_weights_of_roles(options, weights):
    assert constant_mask(0.25, 0.75, random_roles=True, **options).weigh_roles(0.5) == weights


TABLE = only(alternating([1, 1, 1, 1]))  # [CLS] u s a s u s a s end
HALF = only(alternating([1, 1, 1, 1], [0.5, 2.0, 0.0, 0.25]))


@pytest.mark.parametrize(
    ("mask", "spans", "weights"),
    [
        (constant_mask(0.5), TABLE, [0, 0.5, 0.5, 1, 1, 0.5, 0.5, 1, 1, 1]),
        # With the user as trained role the roles change places.
        (constant_mask(0.5, trained_role=U), TABLE, [0, 1, 1, 0.5, 0.5, 1, 1, 0.5, 0.5, 1]),
        (constant_mask(0.0, 0.25, trained_role=U), TABLE, [0, 0.25, 0.25, 0, 0, 0.25, 0.25, 0, 0, 1]),
        # The last turn of the trained role, at that role's weight.
        (constant_mask(1.0, last_turn_only=True), TABLE, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]),
        (constant_mask(1.0, 0.5, last_turn_only=True), TABLE, [0, 0, 0, 0, 0, 0, 0, 0.5, 0.5, 1]),
        (constant_mask(1.0, last_turn_only=True, trained_role=U), TABLE, [0, 0, 0, 0, 0, 1, 1, 0, 0, 1]),
        (constant_mask(0.0, random_roles=True, last_turn_only=True), TABLE, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]),
        # Data weights multiply, except at the end of text; a turn with data weight 0 is not the last turn.
        (constant_mask(0.5), HALF, [0, 0.25, 0.25, 2, 2, 0, 0, 0.25, 0.25, 1]),
        (constant_mask(1.0, last_turn_only=True), HALF, [0, 0, 0, 0, 0, 0, 0, 0.25, 0.25, 1]),
        (constant_mask(1.0, last_turn_only=True, trained_role=U), HALF, [0, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 1]),
        # In a sequence without a turn of the trained role only the end carries weight.
        (constant_mask(1.0, last_turn_only=True), only(Talk((S, U), (1, 1), (1.0, 1.0))), [0, 0, 0, 0, 0, 1]),
        (constant_mask(1.0), only(Talk((S, U), (1, 1), (1.0, 1.0))), [0, 0, 0, 1, 1, 1]),
    ],
)  # fmt: skip
def test_token_weights_by_hand(mask, spans, weights):
    assert weights_of(mask, spans) == weights


def test_each_sequence_has_a_last_turn():
    """A dialogue in two sequences, and one whose last assistant turn was truncated."""
    split = only(alternating([1, 1, 1, 1]), truncation="split", max_len=8)
    assert split.counts.tolist() == [3, 4]
    mask = constant_mask(1.0, last_turn_only=True)
    assert weights_of(mask, split) == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    cut = only(alternating([1, 1, 3, 1]), max_len=8)
    assert weights_of(mask, cut) == [0, 0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("role", "truncation", "max_len", "talk", "expected"),
    [
        (A, "keep_start", 50, alternating([1, 1]), True),
        (A, "keep_start", 8, Talk((U, A), (9, 1), (1.0, 1.0)), False),
        (U, "keep_start", 8, Talk((U, A), (9, 1), (1.0, 1.0)), True),
        (A, "keep_start", 8, Talk((U, A), (6, 3), (1.0, 1.0)), False),  # the user turn fills it
        (A, "keep_start", 8, Talk((U, A), (5, 3), (1.0, 1.0)), True),
        (A, "keep_start", 8, Talk((U, A), (3, 9), (1.0, 0.0)), False),
        (A, "keep_start", 50, Talk((U, A), (3, 9), (1.0, 0.0)), True),  # the end
        (U, "keep_start", 8, Talk((S, A), (3, 9), (1.0, 1.0)), False),
    ],
)
def test_trainable_sequences(role, truncation, max_len, talk, expected):
    spans = only(talk, truncation=truncation, max_len=max_len)
    assert constant_mask(0.0, trained_role=role).find_trainable(spans).tolist() == [expected]


def weighted_turns(mask, spans, progress=1.0):
    """For each sequence the turns with weight, as a list of (role, turn)."""
    weights = mask.weigh_spans(spans, mask.weigh_roles(progress))
    firsts = np.cumsum(spans.counts) - spans.counts
    there = (weights > 0) & (spans.roles != E) & (spans.lengths > 0)
    return [
        [(role, turn) for role, turn, on in zip(spans.roles[a:b], spans.turns[a:b], there[a:b], strict=True) if on]
        for a, b in zip(firsts, firsts + spans.counts, strict=True)
    ]


@settings(deadline=None, max_examples=100)
@given(layouts(), st.sampled_from([A, U]))
def test_as_many_turns_are_drawn_as_the_trained_role_has(layout, role):
    """Of those with tokens and a data weight above 0."""
    _, spans = layout.arrays()
    placebo = Mask(partial(random_turns, train_user_turn_mask_step=0.5), trained_role=role)
    step = Mask(partial(schedules.step, train_user_turn_mask_step=0.5), trained_role=role)
    drawn, own = weighted_turns(placebo, spans), weighted_turns(step, spans)
    assert list(map(len, drawn)) == list(map(len, own))
    before = [mask.weigh_tokens(spans, mask.weigh_roles(0.49)) for mask in (placebo, step)]
    assert np.array_equal(before[0][0], before[1][0])
    assert before[0][1] == before[1][1]


def many_talks(count, roles):
    """`count` dialogues with these roles, each turn of two tokens."""
    turns = len(roles)
    tile = partial(np.tile, reps=count)
    ones = np.ones(count * (turns + 2), dtype=np.int64)
    return TurnSpans(
        roles=tile(np.array([C, *roles, E], dtype=np.int64)),
        turns=tile(np.array([0, *range(turns), turns - 1])),
        lengths=tile(np.array([1, *[2] * turns, 1])),
        lost=ones * 0,
        weights=ones.astype(np.float32),
        counts=np.full(count, turns + 2),
        dialogues=np.arange(count),
    )


def test_drawn_roles_of_the_docstring():
    spans = only(Talk((U, A, U), (1, 1, 1), (1.0, 1.0, 1.0)))
    third = TurnSpans(*(getattr(spans, name) for name in TurnSpans.__slots__[:-1]), spans.dialogues + 3)
    assert [round(slow_hash(3, turn) / 2**64, 2) for turn in range(3)] == [0.03, 0.97, 0.6]
    assert constant_mask(0.0).draw_roles(third).tolist() == [C, A, U, U, E]


@pytest.mark.parametrize("roles", [(U, A, U, A, U, A), (U, A, U, A, U), (U, U, A, S, A, A, A)])
@pytest.mark.parametrize("role", [A, U])
def test_draws_do_not_depend_on_role_or_turn(roles, role):
    """Over 20,000 dialogues each set of that many turns is drawn equally often (chi-squared)."""
    mask = Mask(partial(random_turns, train_user_turn_mask_step=0.5), trained_role=role)
    spans = many_talks(20_000, roles)
    on = mask.weigh_spans(spans, mask.weigh_roles(1.0)).reshape(20_000, -1)[:, 1:-1] > 0
    speaking = [turn for turn, of in enumerate(roles) if of in (U, A)]
    size = roles.count(role)
    sets = list(combinations(speaking, size))
    keys = (on * 2 ** np.arange(len(roles))).sum(1)
    found = [int((keys == sum(2**turn for turn in drawn)).sum()) for drawn in sets]
    assert sum(found) == 20_000
    expected = 20_000 / len(sets)
    chi_square = sum((count - expected) ** 2 / expected for count in found)
    freedom = len(sets) - 1
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5
    users = on[:, [turn for turn in speaking if roles[turn] == U]].sum() / on.sum()
    assert users == pytest.approx(roles.count(U) / len(speaking), abs=0.01)


def test_draws_differ_between_dialogues_and_not_between_batches():
    mask = Mask(partial(random_turns, train_user_turn_mask_step=0.0))
    drawn = weighted_turns(mask, many_talks(200, (U, A, U, A, U, A)))
    repeats = sum(one == other for one, other in pairwise(drawn))
    assert repeats < 30  # one in twenty, by chance
    assert weighted_turns(mask, many_talks(50, (U, A, U, A, U, A))) == drawn[:50]


def original_spans(tokenizer, texts, max_len):
    """The ids and spans of a dialogue as this package formats it in the original program's way."""
    special_tokens = tokenizer.special_tokens
    roles = [A if index % 2 else U for index in range(len(texts))]
    turns = tokenizer.chat_format.encode_turns(texts, roles)
    return arrays(cut(turns, [1.0] * len(turns), special_tokens, "keep_start", max_len)[1])


@pytest.mark.parametrize(
    ("full", "max_len", "trained"),
    [
        (SHORT, 64, [*range(10, 14), *range(27, 36)]),
        (SHORT, 32, [*range(10, 14), *range(27, 32)]),
        (USER_LAST, 64, [*range(12, 18), *range(31, 34), 45]),
    ],
)
def test_step_trains_what_the_original_trains(gpt2_tokenizer, full, max_len, trained):
    texts = " ".join(map(str, full[1:-2])).split(" 50258 ")
    texts = [gpt2_tokenizer.decode(map(int, text.split())) for text in texts]
    ids, spans = original_spans(gpt2_tokenizer, texts, max_len)
    assert ids.tolist() == full[:max_len]
    for progress in (0.5, 0.75, 1.0):
        weights = weights_of(ORIGINAL, spans, progress)
        assert [place for place, weight in enumerate(weights) if weight] == trained
        assert set(weights) == {0.0, 1.0}
    # Before the switch all tokens but the first are targets.
    assert weights_of(ORIGINAL, spans, 0.4999) == [0, *[1] * (len(ids) - 1)]


def test_step_gives_the_golden_labels_before_and_after_the_switch(gpt2_tokenizer, real_data):
    golden = json.loads((real_data.parent / "golden/sequences.json").read_text())
    with (real_data / "dailydialog/test.jsonl").open() as file:
        dialogues = [json.loads(line)["turns"] for line in file]
    pad, checked = gpt2_tokenizer.pad_id, 0
    for max_len, rows in golden["max_len"].items():
        for row in rows:
            ids, spans = original_spans(gpt2_tokenizer, dialogues[row["dialogue"]], int(max_len))
            padding = [pad] * (int(max_len) - len(ids))
            assert ids.tolist() + padding == row["input_ids"]
            for progress in (0.5, 1.0):
                weights = weights_of(ORIGINAL, spans, progress)
                labels = [token if weight else pad for token, weight in zip(ids.tolist(), weights, strict=True)]
                assert labels + padding == row["labels"]
            assert weights_of(ORIGINAL, spans, 0.49) == [0, *[1] * (len(ids) - 1)]
            checked += 1
    assert checked == 50

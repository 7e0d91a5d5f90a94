"""Intervals, subsets, depths and comparisons, all from the same sums by dialogue."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.evaluation.analysis import (
    BOOTSTRAP_SEED,
    Statistics,
    add_intervals,
    collect_statistics,
    compare_scores,
    score_by_depth,
    score_subset,
)
from dialog_trainer.metrics.bootstrap import confidence_interval, paired_difference
from dialog_trainer.metrics.perplexity import PERPLEXITIES
from dialog_trainer.metrics.registry import SCORE_NAMES, SCORES, Score, compute_statistics, score_replies
from dialog_trainer.types import Reply

WORDS = ("the", "sea", "is", "cold", "green", "tea", ".", "yes")
NO_SUMS = {"distinct1", "distinct2", "entropy4"}
REPLIED = ("d0", "d1", "d2", "d3", "d4")
ALL = (*REPLIED, "d5", "d6")  # two were not replied to, and have a loss all the same


def replies(seed: int, dialogues=REPLIED) -> list[Reply]:
    """1 to 9 for each dialogue, the contexts the same whatever the seed; some are empty."""
    draw, said = random.Random(0), random.Random(seed)
    text = lambda of, low: " ".join(of.choice(WORDS) for _ in range(of.randint(low, 6)))  # noqa: E731
    return [
        Reply(name, 1 + 2 * turn, ("yes",), text(draw, 1), text(said, 0), said.random() < 0.5)
        for name in dialogues
        for turn in range(draw.randint(1, 9))
    ]


def loss_sums(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 9, (len(ALL), 4))


def pick(*names: str) -> dict[str, Score]:
    return {name: SCORES[name] for name in names}


def made(seed: int, names=SCORE_NAMES) -> Statistics:
    return collect_statistics(pick(*names), replies(seed), ALL, loss_sums(seed))


def test_statistics_are_sums_by_dialogue():
    found, of = made(1), replies(1)
    assert set(found.rows) == set(found.ids) == set(SCORE_NAMES) - NO_SUMS
    for name, rows in compute_statistics(SCORE_NAMES, of).items():
        assert found.ids[name] == list(REPLIED)
        for place, dialogue in enumerate(REPLIED):
            own = [row for row, reply in zip(rows, of, strict=True) if reply.dialogue_id == dialogue]
            assert found.rows[name][place] == pytest.approx(np.sum(own, axis=0))
    for name in PERPLEXITIES:
        assert found.ids[name] == list(ALL)
        assert found.rows[name] == pytest.approx(loss_sums(1))


def test_statistics_add_up_to_the_scores():
    scores = score_replies(SCORE_NAMES, replies(1))
    found = made(1)
    for name in set(scores) - NO_SUMS:
        assert SCORES[name].value(found.rows[name].sum(0)) == pytest.approx(scores[name], rel=1e-12), name


@settings(deadline=None, max_examples=30)
@given(st.sets(st.sampled_from(ALL)))
def test_subsets_add_up(wanted):
    found = made(1)
    ours, others = found.select(wanted), found.select(set(ALL) - wanted)
    for name, rows in found.rows.items():
        assert ours.ids[name] == [one for one in found.ids[name] if one in wanted]
        assert ours.rows[name].shape[1] == rows.shape[1]
        assert ours.rows[name].sum(0) + others.rows[name].sum(0) == pytest.approx(rows.sum(0))


def test_each_score_has_the_interval_of_its_dialogues():
    scores = score_replies(SCORE_NAMES, replies(1)) | {"ppl": 5.0}
    found, of = add_intervals(SCORES, scores, made(1)), made(1)
    assert list(found) == list(scores)
    for name, one in found.items():
        assert one["value"] == scores[name]
        ends = (
            confidence_interval(of.rows[name], SCORES[name].value, BOOTSTRAP_SEED)
            if name not in NO_SUMS
            else (None, None)
        )
        assert (one["low"], one["high"]) == ends
    assert found["bleu1"]["low"] < found["bleu1"]["value"] < found["bleu1"]["high"]


def test_one_dialogue_has_no_interval():
    of = replies(1, ("d0",))
    scores = score_replies(["bleu1", "length"], of)
    found = add_intervals(SCORES, scores, collect_statistics(pick("bleu1", "length"), of, ["d0"], loss_sums(1)[:1]))
    assert found == {name: {"value": scores[name], "low": None, "high": None} for name in scores}


@pytest.mark.parametrize("wanted", [{"d1", "d3"}, {"d0"}, set(ALL), set(REPLIED), {"d5"}, set()])
def test_a_subset_is_scored_from_its_own_rows(wanted):
    of, found = replies(1), made(1)
    result = score_subset(SCORES, of, found, wanted)
    kept = [reply for reply in of if reply.dialogue_id in wanted]
    assert result["dialogues"] == len(wanted & set(REPLIED))
    assert result["replies"] == len(kept)
    assert list(result["scores"]) == list(SCORE_NAMES)
    alone = score_replies(SCORE_NAMES, kept)
    rows = compute_statistics(SCORE_NAMES, of)
    places = [place for place, reply in enumerate(of) if reply.dialogue_id in wanted]
    for name, score in result["scores"].items():
        if not kept and name not in PERPLEXITIES:
            assert score["value"] is None
        elif name in PERPLEXITIES:
            inside = [one in wanted for one in ALL]
            expected = PERPLEXITIES[name](loss_sums(1)[inside].sum(0))
            # The perplexity of nothing is none.
            assert score["value"] == (pytest.approx(expected) if any(inside) else None)
        elif name.startswith("nist"):  # by the information of all references, not of the part's
            assert score["value"] == pytest.approx(SCORES[name].value(rows[name][places].sum(0)))
        else:
            assert score["value"] == pytest.approx(alone[name])
        has_interval = (bool(kept) or name in PERPLEXITIES) and len(wanted & set(found.ids.get(name, ()))) > 1
        assert (score["low"] is not None) == has_interval
    if wanted == set(REPLIED):
        assert result["scores"]["bleu2"] == add_intervals(SCORES, alone, found)["bleu2"]


def test_each_depth_is_in_its_bin():
    turns = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 30]
    expected = ["1", "2", "3", "4", "5-6", "5-6", "7-10", "7-10", "7-10", "7-10", ">10", ">10"]
    found = [score_by_depth({}, [Reply("d", turn, ("a",), "b", "c", True)]) for turn in turns]
    assert found == [[{"depth": name, "replies": 1, "scores": {}}] for name in expected]


def test_each_bin_has_its_own_replies():
    said = [(7, "a"), (1, "a b"), (40, "a b c d e"), (1, "a b c d")]
    assert score_by_depth(pick("length"), [Reply("d", turn, ("a",), "b", text, True) for turn, text in said]) == [
        {"depth": "1", "replies": 2, "scores": {"length": 3.0}},
        {"depth": "7-10", "replies": 1, "scores": {"length": 1.0}},
        {"depth": ">10", "replies": 1, "scores": {"length": 5.0}},
    ]


def test_depths_add_up():
    of = replies(1)
    found = score_by_depth(pick("bleu2", "length", "ppl", "distinct1"), of)
    assert [(one["depth"], one["replies"]) for one in found] == [
        (depth, sum(low <= reply.turn_index <= high for reply in of))
        for depth, low, high in (("1", 1, 1), ("3", 3, 3), ("5-6", 5, 6), ("7-10", 7, 10), (">10", 11, 99))
    ]
    assert sum(one["replies"] for one in found) == len(of)
    assert all(list(one["scores"]) == ["bleu2", "length", "distinct1"] for one in found)
    words = sum(one["replies"] * one["scores"]["length"] for one in found)
    assert words / len(of) == pytest.approx(score_replies(["length"], of)["length"])
    assert score_by_depth(pick("bleu2"), []) == []
    assert score_by_depth(pick("ppl"), of)[0]["scores"] == {}


def test_compared_with_itself_there_is_no_difference():
    found = compare_scores(SCORES, made(1), made(1))
    assert list(found) == [name for name in SCORE_NAMES if name not in NO_SUMS]
    for one in found.values():
        assert one == {"difference": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}


def test_a_difference_is_ours_minus_theirs():
    ours, others = made(1), made(2)
    there, back = compare_scores(SCORES, ours, others), compare_scores(SCORES, others, ours)
    for name, one in there.items():
        value = SCORES[name].value
        assert one["difference"] == pytest.approx(value(ours.rows[name].sum(0)) - value(others.rows[name].sum(0)))
        paired = paired_difference(ours.rows[name], others.rows[name], value, BOOTSTRAP_SEED)
        assert (one["low"], one["high"], one["p_value"]) == (paired.low, paired.high, paired.p_value)
        assert back[name]["difference"] == -one["difference"]
        assert back[name]["p_value"] == one["p_value"]
    assert any(one["difference"] for one in there.values())


def test_only_shared_scores_of_equal_dialogues_are_compared():
    ours, others = made(1, ("bleu2", "length", "ppl")), made(2, ("ppl", "bleu2", "chrf"))
    assert list(compare_scores(pick("bleu2", "length", "ppl"), ours, others)) == ["bleu2", "ppl"]
    assert list(compare_scores(pick("ppl"), ours, others)) == ["ppl"]
    fewer = others.select(set(REPLIED[1:]) | {"d5", "d6"})
    assert compare_scores(pick("bleu2", "ppl"), ours, fewer) == {}
    turned = Statistics(
        {name: ids[::-1] for name, ids in others.ids.items()}, {name: rows[::-1] for name, rows in others.rows.items()}
    )
    assert compare_scores(pick("bleu2"), ours, turned) == {}
    one = {"d0"}
    assert compare_scores(pick("bleu2"), ours.select(one), others.select(one)) == {}


def test_empty_replies_score_nothing():
    empty = [Reply(name, 1, ("a",), "the sea", "", True) for name in REPLIED]
    names = [name for name in SCORE_NAMES if name not in PERPLEXITIES]
    found = add_intervals(
        SCORES, score_replies(names, empty), collect_statistics(pick(*names), empty, REPLIED, loss_sums(1))
    )
    assert {name: one["value"] for name, one in found.items()} == dict.fromkeys(names, 0.0) | {"turn_end_rate": 1.0}
    assert all(math.isfinite(one["high"]) for name, one in found.items() if name not in NO_SUMS)

"""Files of a validation: their rows, and reading them for a comparison."""

import json
from pathlib import Path

import numpy as np
import pytest

from dialog_trainer.errors import CheckpointError
from dialog_trainer.evaluation import results
from dialog_trainer.evaluation.analysis import Statistics, collect_statistics
from dialog_trainer.evaluation.results import (
    archive_scores,
    describe_dialogues,
    read_comparable_scores,
    read_scores,
    write_scores,
)
from dialog_trainer.metrics.registry import SCORE_NAMES, SCORES
from dialog_trainer.types import Reply

SCORED = {
    "checkpoint": "run/weights/step-00000004", "split": "test", "protocol": "response", "data": "abc", "dialogues": 2,
    "signature": "protocol:response", "clean": None, "scores": {"bleu2": {"value": 0.1, "low": None, "high": None}},
}  # fmt: skip
REPLIES = [
    Reply("b", 1, ("Wie geht ' s ?",), "gut .", "schön \u2028 .", True),
    Reply("b", 3, ("x", "y", "z"), "the sea is cold", "the sea", False),
    Reply("d", 1, ("한국어",), "ja", "", True, ("ja", "ja , gern")),
]
ALL = ("a", "b", "c", "d")


def made(names=SCORE_NAMES) -> Statistics:
    return collect_statistics(
        {name: SCORES[name] for name in names}, REPLIES, ALL, np.random.default_rng(0).uniform(0, 9, (4, 4))
    )


def written(place, statistics: Statistics, scored: dict = SCORED, facts: dict | None = None):
    place.mkdir(parents=True, exist_ok=True)
    write_scores(place.parent, place.name, scored, SCORES, REPLIES, statistics, "# Scores\n", facts or {})
    return place


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_the_files_and_their_rows(tmp_path):
    place = written(tmp_path / "v", made(("bleu2", "ppl", "length", "distinct1")))
    assert {path.name for path in place.iterdir()} == {"scores.json", "scores.md", "replies.jsonl", "dialogues.jsonl"}
    assert json.loads((place / "scores.json").read_text()) == SCORED
    assert (place / "scores.md").read_text() == "# Scores\n"
    replies = rows_of(place / "replies.jsonl")
    head = ["dialogue_id", "turn_index", "history", "reply", "reference", "ended"]
    assert [list(row) for row in replies] == [
        [*head, "statistics"], [*head, "statistics"], [*head, "references", "statistics"],
    ]  # fmt: skip
    assert [row["reply"] for row in replies] == [reply.text for reply in REPLIES]
    assert replies[2]["references"] == ["ja", "ja , gern"]
    assert [list(row["statistics"]) for row in replies] == [["bleu2", "length"]] * 3
    assert [row["statistics"]["length"] for row in replies] == [[2, 1], [2, 1], [0, 1]]
    dialogues = rows_of(place / "dialogues.jsonl")
    assert [row["dialogue_id"] for row in dialogues] == list(ALL)
    assert [set(row["statistics"]) for row in dialogues] == [{"ppl"}, {"ppl", "bleu2", "length"}] * 2
    assert dialogues[1]["statistics"]["length"] == [4, 2]
    assert "schön" in (place / "replies.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "names",
    [SCORE_NAMES, SCORE_NAMES[::-1], ("bleu2", "ppl"), ("ppl", "bleu2"), ("bleu2",), ("ppl_word",), ("distinct1",), ()],
)
def test_statistics_round_trip_in_any_order(tmp_path, names):
    before = made(names)
    scored, after = read_scores(written(tmp_path / "v", before), SCORES)
    assert scored == SCORED
    assert after.ids == before.ids
    assert after.rows.keys() == before.rows.keys()
    for name, rows in before.rows.items():
        assert after.rows[name].dtype == np.float64
        assert np.array_equal(after.rows[name], rows)


def test_losses_by_role_and_contamination_are_kept_by_dialogue(tmp_path):
    ids = ["a", "b"]
    role_sums = np.arange(20.0).reshape(2, 5, 2)
    facts = describe_dialogues(ids, role_sums, clean_ids={"a"})
    rows = rows_of(written(tmp_path / "v", made(()), facts=facts) / "dialogues.jsonl")
    losses = {"user_nll": [2.0, 3.0], "assistant_nll": [4.0, 5.0], "end_nll": [6.0, 7.0]}
    assert rows[0] == {"dialogue_id": "a", "statistics": {}, "losses": losses}
    assert [row.get("contaminated") for row in rows] == [None, True]
    assert [row.get("contaminated") for row in describe_dialogues(ids, role_sums, None).values()] == [None, None]


def test_files_are_replaced(tmp_path):
    place = written(tmp_path / "v", made(("bleu2",)))
    written(place, made(("chrf",)), SCORED | {"split": "validation"})
    scored, statistics = read_scores(place, SCORES)
    assert (scored["split"], list(statistics.rows)) == ("validation", ["chrf"])
    assert {path.name for path in place.iterdir()} == {"scores.json", "scores.md", "replies.jsonl", "dialogues.jsonl"}


def test_scores_of_another_signature_are_archived(tmp_path):
    folder, place = "validation/test/response", tmp_path / "validation/test/response"
    assert archive_scores(tmp_path, folder, SCORED) is None
    written(place, made(("bleu2",)))
    assert archive_scores(tmp_path, folder, SCORED) is None
    for number, key in enumerate(("signature", "checkpoint", "data"), start=1):
        there = rows_of(place / "dialogues.jsonl")
        aside = archive_scores(tmp_path, folder, SCORED | {key: "another"})
        assert aside == place.with_name(f"response-{number}")
        assert rows_of(aside / "dialogues.jsonl") == there
        assert not place.exists()
        written(place, made(("bleu2",)))


def test_scores_are_written_last(tmp_path, monkeypatch):
    place = tmp_path / "v"
    place.mkdir()
    order = []
    write = results.write_atomically
    monkeypatch.setattr(
        results, "write_atomically", lambda run, name, text: (order.append(Path(name).name), write(run, name, text))
    )
    written(place, made())
    assert order[-1] == "scores.json"
    assert len(order) == 4


DIALOGUES = ["{}", "[]", "3", '{"dialogue_id": "a"}', '{"dialogue_id": "a", "statistics": {"bleu2": [1', "[" * 100_000]
DIALOGUES += ['{"dialogue_id": "a", "statistics": [1]}', '{"dialogue_id": "a", "statistics": {"bleu2": null}}']
DIALOGUES += [
    '{"dialogue_id": "a", "statistics": {"bleu2": [1, 2]}}',
    '{"dialogue_id": "a", "statistics": {"bleu2": 1}}',
]
DIALOGUES += ['{"statistics": {"bleu2": [1, 2]}}', '{"dialogue_id": "a", "statistics": {"ppl": [1, 2, 3]}}']
DIALOGUES += ['{"dialogue_id": "a", "statistics": {"ppl": "x"}}']
SCORED_FILES = ["", "{", "null", "[]", "3", '"text"', "{}", "\x00", "[" * 100_000]
SCORED_FILES += [
    json.dumps({key: value for key, value in SCORED.items() if key != left_out}) for left_out in list(SCORED)[:6]
]
SCORED_FILES += [
    json.dumps(SCORED | wrong) for wrong in ({"dialogues": "4"}, {"data": None}, {"signature": 3}, {"split": []})
]
# Of the version before protocols.
SCORED_FILES += [
    json.dumps({"scores": {"bleu2": 0.1}, "protocol": "response: 9 replies", "split": "test", "checkpoint": "c"})
]


@pytest.mark.parametrize(
    ("name", "content"),
    [*(("dialogues.jsonl", text) for text in DIALOGUES), *(("scores.json", text) for text in SCORED_FILES)],
)
def test_broken_files_are_named(tmp_path, name, content):
    place = written(tmp_path / "v", made(("bleu2", "ppl")))
    with (place / name).open("a" if name == "dialogues.jsonl" else "w", encoding="utf-8") as file:
        file.write(content)
    with pytest.raises(CheckpointError) as caught:
        read_scores(place, SCORES)
    assert str(caught.value).startswith(f"compare_with={place}: holds no scores of this version (")
    assert str(caught.value).endswith("run mode=validate on that run first, with the same split and metrics")


def test_metrics_of_the_other_run_alone_are_left_out(tmp_path):
    place = written(tmp_path / "v", made(("bleu2", "chrf")))
    _, statistics = read_scores(place, {"bleu2": SCORES["bleu2"]})
    assert list(statistics.rows) == list(statistics.ids) == ["bleu2"]


@pytest.mark.parametrize("name", ["dialogues.jsonl", "scores.json"])
def test_missing_files_are_named(tmp_path, name):
    place = written(tmp_path / "v", made(("bleu2", "ppl")))
    (place / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        read_scores(place, SCORES)
    (place / name).write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError):
        read_scores(place, SCORES)


def test_missing_keys_are_named(tmp_path):
    place = written(tmp_path / "v", made(("bleu2",)))
    (place / "scores.json").write_text(json.dumps({"split": "test", "protocol": "response"}))
    with pytest.raises(CheckpointError, match=r"scores.json has no checkpoint, data, dialogues, signature"):
        read_scores(place, SCORES)


@pytest.mark.parametrize(("name", "numbers"), [("bleu2", 9), ("ppl", 3), ("length", 3), ("nist2", 0)])
def test_statistics_of_another_rule_are_named(tmp_path, name, numbers):
    place = written(tmp_path / "v", made(("bleu2",)))
    lines = [json.dumps({"dialogue_id": one, "statistics": {name: [1.0] * numbers}}) for one in ALL]
    (place / "dialogues.jsonl").write_text("\n".join(lines))
    with pytest.raises(CheckpointError, match=rf"dialogues.jsonl: {name} has not \d+ numbers a dialogue"):
        read_scores(place, SCORES)


def test_a_run_without_scores_is_named(tmp_path):
    expected = {"split": "test", "protocol": "response", "data": "", "dialogues": 1, "signature": ""}
    with pytest.raises(
        CheckpointError, match="validation/test/response: has no scores yet; run mode=validate on that run"
    ):
        read_comparable_scores(tmp_path, expected, SCORES)

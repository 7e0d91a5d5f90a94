"""mode=inspect through the command line: what it prints, the page it writes, and that it loads and makes no weights."""

import json
import re

import pytest

from dialog_trainer.build import data
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.model import loading

pytestmark = pytest.mark.slow
SPECIAL_TOKENS = ("[CLS]", "<|endoftext|>")


@pytest.fixture
def inspect(dialog_trainer, tiny_options, tmp_path):
    def run(*options):
        code, out, err = dialog_trainer("mode=inspect", *tiny_options, *options)
        assert code == 0, out + err
        return out, tmp_path / "runs" / "run-inspect"

    return run


def content_of(folder) -> dict:
    page = (folder / "mask.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', page, re.S)[1])


def weight_at(content: dict, run: dict, progress: float) -> float:
    _, user, assistant, by_lot = [entry for entry in content["schedule"] if entry[0] <= progress][-1]
    of_user, of_assistant, fixed = run["lot"] if by_lot else run["weight"]
    return of_user * user + of_assistant * assistant + fixed


def test_it_makes_its_folder_and_no_weights(inspect, monkeypatch, tmp_path):
    for name in ("model", "saved_model"):
        monkeypatch.setattr(data, name, None)
    monkeypatch.setattr(loading, "load_pretrained", None)
    out, folder = inspect("progress=0.6")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run-inspect"]
    assert sorted(path.name for path in folder.iterdir()) == ["lengths.png", "mask.html", "mask_weights.png"]
    assert "mask: all turns, assistant turns from step 3 (progress 0.50); " in out
    assert f"written to {folder / 'mask.html'}" in out
    assert inspect("progress=0.6")[1] == folder  # again, into the same place


@pytest.mark.parametrize(
    ("options", "points"),
    [
        ([], [0.0, 0.5, 1.0]),
        (["progress=0.6"], [0.6]),
        (["mask_schedule=constant"], [0.0, 1.0]),
        (["mask_schedule=linear", "mask_schedule.end=0.8", "steps=10"], [0.0, 0.8, 1.0]),
    ],
)
def test_the_points_are_the_start_the_last_change_and_the_end_or_what_was_asked(inspect, options, points):
    out, folder = inspect(*options)
    content = content_of(folder)
    assert content["points"] == points
    assert all(f"trained at {point:.2f}" in out for point in points)


@pytest.mark.parametrize(
    "options",
    [
        ["mask_schedule=step"],
        ["mask_schedule=linear", "steps=40"],
        ["mask_schedule=random_turns"],
        ["mask_schedule=constant", "mask_schedule.trained_role=user"],
        ["mask_schedule=step", "mask_schedule.last_turn_only=true"],
        ["mask_schedule=piecewise", "data.truncation=keep_start"],
    ],
)
def test_the_page_weighs_as_training_does(inspect, options, monkeypatch):
    """Every run of every sequence at several points, against the mask that a run would use."""
    built = {}
    for name in ("mask", "with_tokens"):
        made = getattr(data, name)
        monkeypatch.setattr(data, name, lambda *a, made=made, name=name: built.setdefault(name, made(*a)))
    _, folder = inspect("inspect_dialogues=1000", *options)
    content, table, mask = content_of(folder), built["with_tokens"].tokens, built["mask"]
    assert len(content["dialogues"]) == len(table)
    ids, runs = table.columns(range(len(table)))
    shown = [run for dialogue in content["dialogues"] for run in dialogue["runs"]]
    assert [token for run in shown for token in run["ids"]] == ids.tolist()
    assert [run["turn"] for run in shown] == runs.turns.tolist()
    assert [run["lost"] for run in shown] == runs.lost.tolist()
    steps = content["schedule_steps"]
    for step in {0, 1, steps // 2, steps - 1, steps}:
        weights = mask.span_weights(runs, mask.at(step / steps))
        assert [weight_at(content, run, step / steps) for run in shown] == pytest.approx(weights.tolist(), abs=1e-6)


def test_sequences_say_where_they_are_and_what_they_lack(inspect, dialogue_turns):
    tokenizer = DialogueTokenizer.train((text for turns in dialogue_turns[:36] for text in turns), 300)
    _, folder = inspect("model.max_len=24", "inspect_dialogues=1000")
    by_id = {}
    for sequence in content_of(folder)["dialogues"]:
        by_id.setdefault(sequence["id"], []).append(sequence)
    assert len(by_id) == 36
    for identifier, sequences in by_id.items():
        assert [s["part"] for s in sequences] == list(range(1, len(sequences) + 1))
        assert {s["parts"] for s in sequences} == {len(sequences)}
        texts = dialogue_turns[int(identifier) - 1]
        whole = sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts))
        kept = sum(len(run["ids"]) for s in sequences for run in s["runs"] if run["role"] in ("user", "assistant"))
        assert sum(s["lost_tokens"] for s in sequences) == whole - kept
        for s in sequences:
            assert ("cut" in s["tags"]) == any(run["lost"] for run in s["runs"])
            assert s["tokens"] == sum(len(run["ids"]) for run in s["runs"])
            assert [run["position"] for run in s["runs"]][:2] == [0, 1]
    some = [run for sequences in by_id.values() for s in sequences for run in s["runs"]]
    assert all(
        tokenizer.decode(run["ids"]) == "".join(run["texts"]).replace("[SEP]", "")
        for run in some
        if run["role"] == "user"
    )


def test_a_sweep_is_refused(dialog_trainer, tiny_options):
    code, _, errors = dialog_trainer("-m", "mode=inspect", *tiny_options, "seed=0,1")
    assert code == 2
    assert "-m: sweeps train; mode=inspect shows one mask at a time" in errors


def test_what_is_left_out_of_training_weighs_nothing_and_says_so(inspect):
    _, folder = inspect("model.max_len=20", "data.truncation=keep_start", "inspect_dialogues=1000")
    sequences = content_of(folder)["dialogues"]
    left_out = [s for s in sequences if s["note"] == "left out of training"]
    without = [s for s in sequences if not any(run["ids"] for run in s["runs"] if run["role"] in ("assistant", "end"))]
    assert left_out == without
    assert 0 < len(left_out) < len(sequences)
    assert all(run["weight"] == [0, 0, 0] for s in left_out for run in s["runs"])
    assert all("untrained" in s["tags"] for s in left_out)
    facts = dict(content_of(folder)["facts"])
    assert facts["left out"] == f"{len(left_out)} sequences: with nothing to train"


def test_leaks_that_training_drops_are_shown_as_left_out(inspect, jsonl_folder, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    for split in ("validation", "test"):
        (copies / f"{split}.jsonl").write_bytes((jsonl_folder / f"{split}.jsonl").read_bytes())
    lines = (jsonl_folder / "train.jsonl").read_text().splitlines(keepends=True)
    copied = (jsonl_folder / "validation.jsonl").read_text().splitlines(keepends=True)[:3]
    (copies / "train.jsonl").write_text("".join(lines + copied))
    out, folder = inspect(f"data.path='{copies}'", "data.drop_leaks=true", "inspect_dialogues=1000")
    assert "training dialogues are left out" in out
    left_out = {s["id"] for s in content_of(folder)["dialogues"] if s["note"] == "left out of training"}
    assert {"37", "38", "39"} <= left_out
    assert len(left_out) < 39


def test_what_is_in_the_way_of_the_page_is_told_before_anything_is_read(dialog_trainer, tiny_options, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/run-inspect").write_text("a file")
    code, out, errors = dialog_trainer("mode=inspect", *tiny_options)
    assert (code, out) == (2, "")
    assert "run-inspect is in the way of the page; choose another name" in errors

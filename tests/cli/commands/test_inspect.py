"""mode=inspect through the command line: the printed tables, the page, and the folder; no weights are built."""

import json
import re
import shutil

import pytest

from dialog_trainer.cli.commands import inspect as inspecting
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


def weight_at(content: dict, span: dict, progress: float) -> float:
    _, user, assistant, at_random = [entry for entry in content["schedule"] if entry[0] <= progress][-1]
    of_user, of_assistant, fixed = span["random_weight"] if at_random else span["weight"]
    return of_user * user + of_assistant * assistant + fixed


def test_it_writes_its_folder_and_builds_no_model(inspect, monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "load_pretrained", None)
    out, folder = inspect("progress=0.6", "figures.enabled=true")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run-inspect"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "lengths.png",
        "mask.html",
        "mask_weights.png",
        "source.json",
    ]
    assert "mask: all turns, assistant turns from step 3 (progress 0.50); " in out
    assert f"written to {folder / 'mask.html'}" in out


@pytest.mark.parametrize(
    ("options", "points"),
    [
        ([], [0.0, 0.5, 1.0]),
        (["progress=0.6"], [0.6]),
        (["mask_schedule=constant"], [0.0, 1.0]),
        (["mask_schedule=linear", "mask_schedule.end=0.8", "steps=10"], [0.0, 0.8, 1.0]),
    ],
)
def test_points_are_the_start_the_last_change_and_the_end_or_progress(inspect, options, points):
    out, folder = inspect(*options)
    content = content_of(folder)
    assert content["points"] == points
    assert all(f"trained at progress {point:.2f}" in out for point in points)


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
    """Every span of every sequence at several points, against the mask of a training run."""
    built = {}
    for name in ("build_mask", "tokenize_split"):
        build = getattr(inspecting, name)
        monkeypatch.setattr(inspecting, name, lambda *a, build=build, name=name: built.setdefault(name, build(*a)))
    _, folder = inspect("inspect_dialogues=1000", *options)
    content, table, mask = content_of(folder), built["tokenize_split"].tokens, built["build_mask"]
    assert len(content["sequences"]) == len(table)
    ids, spans = table.columns(range(len(table)))
    shown = [span for sequence in content["sequences"] for span in sequence["spans"]]
    assert [token for span in shown for token in span["ids"]] == ids.tolist()
    assert [span["turn"] for span in shown] == spans.turns.tolist()
    assert [span["lost"] for span in shown] == spans.lost.tolist()
    steps = content["schedule_steps"]
    for step in {0, 1, steps // 2, steps - 1, steps}:
        weights = mask.weigh_spans(spans, mask.weigh_roles(step / steps))
        assert [weight_at(content, span, step / steps) for span in shown] == pytest.approx(weights.tolist(), abs=1e-6)


def test_sequences_name_their_part_and_truncation(inspect, dialogue_turns):
    tokenizer = DialogueTokenizer.train((text for turns in dialogue_turns[:36] for text in turns), 300)
    _, folder = inspect("model.max_len=24", "inspect_dialogues=1000")
    by_id = {}
    for sequence in content_of(folder)["sequences"]:
        by_id.setdefault(sequence["id"], []).append(sequence)
    assert len(by_id) == 36
    for identifier, sequences in by_id.items():
        assert [s["part"] for s in sequences] == list(range(1, len(sequences) + 1))
        assert {s["parts"] for s in sequences} == {len(sequences)}
        texts = dialogue_turns[int(identifier) - 1]
        whole = sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts))
        kept = sum(len(span["ids"]) for s in sequences for span in s["spans"] if span["role"] in ("user", "assistant"))
        assert sum(s["lost_tokens"] for s in sequences) == whole - kept
        for s in sequences:
            assert ("cut" in s["tags"]) == any(span["lost"] for span in s["spans"])
            assert s["tokens"] == sum(len(span["ids"]) for span in s["spans"])
            assert [span["position"] for span in s["spans"]][:2] == [0, 1]
    some = [span for sequences in by_id.values() for s in sequences for span in s["spans"]]
    assert all(
        tokenizer.decode(span["ids"]) == "".join(span["texts"]).replace("[SEP]", "")
        for span in some
        if span["role"] == "user"
    )


def test_a_sweep_is_refused(dialog_trainer, tiny_options):
    code, _, errors = dialog_trainer("-m", "mode=inspect", *tiny_options, "seed=0,1")
    assert code == 2
    assert "mode=inspect: -m is for mode=train; any other mode works on one run or configuration at a time" in errors


def test_unused_sequences_weigh_nothing_and_say_so(inspect):
    out, folder = inspect("model.max_len=20", "data.truncation=keep_start", "inspect_dialogues=1000")
    sequences = content_of(folder)["sequences"]
    left_out = [s for s in sequences if s["note"] == "not used for training"]
    without = [
        s for s in sequences if not any(span["ids"] for span in s["spans"] if span["role"] in ("assistant", "end"))
    ]
    assert left_out == without
    assert 0 < len(left_out) < len(sequences)
    assert all(span["weight"] == [0, 0, 0] for s in left_out for span in s["spans"])
    assert all("untrained" in s["tags"] for s in left_out)
    facts = dict(content_of(folder)["facts"])
    assert facts["not used"] == f"{len(left_out)} sequences without a token to train"
    assert f"the lines above without the {len(left_out)} that training does not use" in " ".join(out.split())


def test_dropped_leaks_are_shown_as_unused(inspect, jsonl_folder, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    for split in ("validation", "test"):
        (copies / f"{split}.jsonl").write_bytes((jsonl_folder / f"{split}.jsonl").read_bytes())
    lines = (jsonl_folder / "train.jsonl").read_text().splitlines(keepends=True)
    copied = (jsonl_folder / "validation.jsonl").read_text().splitlines(keepends=True)[:3]
    (copies / "train.jsonl").write_text("".join(lines + copied))
    out, folder = inspect(f"data.path='{copies}'", "data.drop_leaks=true", "inspect_dialogues=1000")
    assert "training dialogues are left out" in out
    left_out = {s["id"] for s in content_of(folder)["sequences"] if s["note"] == "not used for training"}
    assert {"37", "38", "39"} <= left_out
    assert len(left_out) < 39


def test_a_page_of_the_same_data_and_model_is_replaced(inspect):
    _, folder = inspect()
    first = content_of(folder)
    out, again = inspect("mask_schedule=constant")
    assert again == folder
    assert f"replacing the page in {folder}, which is of the same data and model" in out
    assert content_of(folder)["schedule"] != first["schedule"]


@pytest.mark.parametrize("option", ["data.train_data_path", "model.vocab_size"])
def test_a_page_of_other_data_or_model_is_kept(inspect, jsonl_folder, tmp_path, option):
    _, folder = inspect()
    before = (folder / "mask.html").read_bytes()
    other = tmp_path / "other"
    shutil.copytree(jsonl_folder, other)
    lines = (other / "train.jsonl").read_text().splitlines(keepends=True)
    (other / "train.jsonl").write_text("".join(lines[:-1]))
    out, _ = inspect(f"data.path='{other}'" if option.startswith("data") else "model.vocab_size=290")
    second = folder.with_name("run-inspect2")
    assert f"{folder.name} in {folder.parent} stay: they hold no page of this data and model" in out
    assert f"written to {second / 'mask.html'}" in out
    assert (folder / "mask.html").read_bytes() == before
    assert content_of(second)["facts"] != content_of(folder)["facts"]


def test_a_file_of_the_name_of_the_folder_is_kept(inspect, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/run-inspect").write_text("a file")
    out, _ = inspect()
    assert f"written to {tmp_path}/runs/run-inspect2/mask.html" in out
    assert (tmp_path / "runs/run-inspect").read_text() == "a file"

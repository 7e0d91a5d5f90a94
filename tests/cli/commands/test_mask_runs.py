"""Whole runs that differ in their mask alone, are resumed before, at and after its switch, are looked at by role, and are probed."""

import hashlib
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.training.loop import train_step

pytestmark = pytest.mark.slow

OPTIMIZER = "trainer/optimizer.safetensors"
ROLES = {"assistant": 2, "user": 1, "end": 3}
STEPS = 8  # and the switch at step 4, where nothing else is said
SCHEDULES = {
    "step": (),
    "reverse_step": ("mask_schedule=reverse_step",),
    "random_turns": ("mask_schedule=random_turns",),
    "linear": ("mask_schedule=linear",),
    "cosine": ("mask_schedule=cosine", "mask_schedule.start=0.3"),
    "constant": ("mask_schedule=constant", "mask_schedule.end_weight=0.3"),
    "piecewise": ("mask_schedule=piecewise", "mask_schedule.points=[[0,1,0.5],[0.5,1,1],[0.5,0.1],[1,0]]"),
    "last turn": ("mask_schedule.last_turn_only=true",),
    "user": ("mask_schedule.trained_role=user",),
}


@dataclass
class Trained:
    """A run, and what each of its steps was made with: a digest of the weights before it, and its batches."""

    folder: Path
    steps: list[dict] = field(default_factory=list)
    out: str = ""

    def rows(self, split: str) -> list[dict]:
        """Without what may differ between two runs that are equal."""
        unlike = ("time_seconds", "tokens_per_second", "data_seconds", "attempt")
        rows = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if k not in unlike} for row in rows if row["split"] == split]

    def digests(self) -> list[str]:
        return [digest_of(self.folder / "weights/last" / name) for name in ("model.safetensors", OPTIMIZER)]

    def state(self) -> dict:
        return json.loads((self.folder / "weights/last/trainer/state.json").read_text())


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(jsonl_folder, tmp_path_factory):
    """The made-up dialogues with more to them: system turns, first turns that leave no room for a reply."""
    folder = tmp_path_factory.mktemp("rich")
    for split in ("train", "validation"):
        rows = [json.loads(line)["turns"] for line in (jsonl_folder / f"{split}.jsonl").read_text().splitlines()]
        lines = []
        for number, texts in enumerate(rows):
            turns = [
                {
                    "role": ("user", "assistant")[index % 2],
                    "content": text * (7 if (split, number, index) == ("train", 3, 0) else 1),
                }
                for index, text in enumerate(texts)
            ]
            if number % 4 == 1:
                turns[0]["content"] = "the sea ."  # leaves room for the system's
                turns.insert(0, {"role": "system", "content": "be brief ."})
            lines.append(json.dumps({"messages": turns}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    rows = [json.loads(line)["messages"] for line in (folder / "train.jsonl").read_text().splitlines()]
    for number, turns in enumerate(rows):
        turns[1 + number % 2] |= (
            ({"weight": 0.25}, {"train": False}, {"weight": 2})[number % 3] if len(turns) > 2 else {}
        )
        turns[0] |= {"weight": 0.0} if number % 5 == 0 else {}
    (folder / "weighed.jsonl").write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in rows))
    return folder


@pytest.fixture
def options(tiny_options, folder):
    quick = [f"steps={STEPS}", "batch_size=5", "metrics.max_dialogues=1", "metrics.max_new_tokens=2"]
    data = ["data=jsonl", f"data.train_data_path='{folder}/train.jsonl'", "data.truncation=keep_start"]
    data += [f"data.validation_data_path='{folder}/validation.jsonl'", "prediction_print_n=0"]
    return [
        *(option for option in tiny_options if not option.startswith("data")),
        *data,
        *quick,
        "model.dropout=0.2",
        "model.max_len=64",
    ]


@pytest.fixture
def watched(dialog_trainer, monkeypatch):
    """`watched(trained, *arguments)` runs the command line and notes what each step is made with."""

    def command(trained: Trained, *arguments: str) -> Trained:
        def noting(learner, batches, **keys):
            weights = b"".join(parameter.detach().numpy().tobytes() for parameter in learner.loss.parameters())
            names = ("ids", "roles", "turns", "weights", "lengths", "divisor")
            columns = {name: [getattr(batch, name) for batch in batches] for name in names}
            columns |= {name: torch.cat(columns[name]).tolist() for name in names[:4]}
            trained.steps.append({"step": keys["step"], "model": hashlib.sha256(weights).hexdigest()} | columns)
            return train_step(learner, batches, **keys)

        monkeypatch.setattr("dialog_trainer.training.loop.train_step", noting)
        code, out, err = dialog_trainer(*arguments, "figures.enabled=false")
        assert code == 0, out + err
        trained.out += out
        return trained

    return command


@pytest.fixture(scope="module")
def made():
    """Runs of this module by their options: each is trained once, and never changed."""
    return {}


@pytest.fixture
def train(watched, options, tmp_path, made, tmp_path_factory):
    def run(*own: str) -> Trained:
        if own not in made:
            made[own] = watched(Trained(tmp_path / "runs/straight"), *options, "name=straight", *own)
            made[own].folder = tmp_path_factory.mktemp("made") / "run"
            shutil.move(tmp_path / "runs/straight", made[own].folder)
        return made[own]

    return run


LINE = ("mask_schedule=linear", "mask_schedule.start=0.5", "mask_schedule.end=1")


@pytest.mark.parametrize(
    ("one", "other", "first"),
    [
        (SCHEDULES["step"], ("train_user_turn_mask_step=1",), 4),
        (SCHEDULES["step"], ("train_user_turn_mask_step=0.75",), 4),
        (SCHEDULES["step"], LINE, 4),
        (SCHEDULES["step"], SCHEDULES["random_turns"], 4),
        (("mask_schedule=constant", "mask_schedule.end_weight=1"), ("mask_schedule=piecewise",), 4),
        (SCHEDULES["linear"], ("mask_schedule=cosine",), 3),
        (("mask_schedule=constant", "mask_schedule.end_weight=1"), LINE, 5),
    ],
)
def test_runs_that_differ_in_their_schedule_alone_are_equal_until_its_weights_do(train, one, other, first):
    a, b = train(*one), train(*other)
    for run in (a, b):
        assert "1 sequences without a token to train are not used" in run.out
    for step in a.steps:
        sequences = torch.tensor(step["roles"]).split([length for part in step["lengths"] for length in part])
        assert all(ROLES["assistant"] in roles or ROLES["end"] in roles for roles in sequences)
    assert [step["ids"] for step in a.steps] == [step["ids"] for step in b.steps]
    assert [x["model"] == y["model"] for x, y in zip(a.steps, b.steps, strict=True)] == [
        step <= first for step in range(STEPS)
    ]
    assert [x == y for x, y in zip(a.rows("train"), b.rows("train"), strict=True)] == [
        step < first for step in range(STEPS)
    ]
    assert [x["weights"] for x in a.steps[:first]] == [y["weights"] for y in b.steps[:first]]
    assert a.steps[first]["weights"] != b.steps[first]["weights"]
    assert a.digests()[0] != b.digests()[0]


def test_schedules_of_equal_weights_give_equal_runs(train):
    runs = [
        train("train_user_turn_mask_step=1"),
        train("mask_schedule=reverse_step", "train_user_turn_mask_step=0"),
        train("mask_schedule=constant", "mask_schedule.end_weight=1"),
    ]
    assert runs[0].steps == runs[1].steps == runs[2].steps
    assert runs[0].digests() == runs[1].digests() == runs[2].digests()


# The other schedules: tests/cli/test_sweep_forks.py.
@pytest.mark.parametrize("schedule", ["step", "random_turns", "piecewise", "constant", "user"])
def test_the_mask_of_a_step_after_a_resume_is_that_of_the_step_straight(
    train, watched, options, tmp_path, folder, schedule
):
    last = ("mask_schedule.last_turn_only=true",) if schedule == "user" else ()
    own = (
        *SCHEDULES[schedule],
        *last,
        f"data.train_data_path='{folder}/weighed.jsonl'",
        "mask_schedule.normalize=turn",
    )
    straight = train(*own)
    weights = [step["weights"] for step in straight.steps]
    assert len({tuple(set(step)) for step in weights}) > 1
    again = Trained(tmp_path / "runs/again")
    watched(again, *options, "name=again", *own, "steps=3", f"schedule_steps={STEPS}")
    for steps in (4, 5, STEPS):
        watched(again, "mode=resume", f"resume_model_dir='{again.folder}'", "load_model_type=last", f"steps={steps}")
    assert again.steps == straight.steps
    assert again.rows("train") == straight.rows("train")
    assert again.rows("validation")[-1] == straight.rows("validation")[-1]
    assert again.digests() == straight.digests()
    for key in ("digest", "mask_final_from_step", "user_tokens_seen", "assistant_tokens_seen"):
        assert again.state()[key] == straight.state()[key]


@pytest.mark.parametrize(
    ("schedule", "normalize"),
    [("linear", "token"), ("piecewise", "fixed"), ("user", "fixed"), ("random_turns", "token")],
)
def test_every_training_row_adds_up(train, schedule, normalize):
    run = train(*SCHEDULES[schedule], f"mask_schedule.normalize={normalize}")
    seen = {"user": 0, "assistant": 0}
    for row, step in zip(run.rows("train"), run.steps, strict=True):
        roles = [role for role, weight in zip(step["roles"], step["weights"], strict=True) if weight > 0]
        for name, role in ROLES.items():
            assert row.get(f"{name}_tokens", 0) == roles.count(role)
            assert (f"{name}_nll" in row) == (role in roles)
        assert row["trained_token_share"] == round(len(roles) / len(step["roles"]), 6)
        nats = {name: row.get(f"{name}_nll", 0) * row.get(f"{name}_tokens", 0) for name in ROLES}
        if schedule != "random_turns" or row["user_weight"] == row["assistant_weight"]:
            weighted = {name: nats[name] * row.get(f"{name}_weight", 1) for name in nats}
            assert row["train_loss"] == pytest.approx(sum(weighted.values()) / sum(step["divisor"]), rel=1e-5)
        turns = zip(step["turns"], step["roles"], step["weights"], strict=True)
        turns = [turn for turn, role, weight in turns if weight > 0 and role in (1, 2)]
        by_turn = sum(row.get(f"nll_turn_{turn:02d}", 0) * turns.count(turn) for turn in set(turns))
        assert {name for name in row if name.startswith("nll_turn_")} == {f"nll_turn_{turn:02d}" for turn in turns}
        assert by_turn == pytest.approx(nats["user"] + nats["assistant"], rel=1e-9)
        for name in seen:
            seen[name] += row.get(f"{name}_tokens", 0)
            assert row[f"{name}_tokens_seen"] == seen[name]
    assert {name: run.state()[f"{name}_tokens_seen"] for name in seen} == seen


@pytest.mark.parametrize(("schedule", "role"), [("step", "assistant"), ("piecewise", "assistant"), ("user", "user")])
def test_every_validation_row_adds_up(train, folder, schedule, role):
    run = train(*SCHEDULES[schedule], "validate_every_n_steps=3")
    tokenizer = DialogueTokenizer.pretrained(str(run.folder / "weights/last"))
    dialogues = [json.loads(line)["messages"] for line in (folder / "validation.jsonl").read_text().splitlines()]
    rows = run.rows("validation")
    assert [row["step"] for row in rows] == [3, 6, 8]
    tokens = {"end": len(dialogues), "user": 0, "assistant": 0, "system": 0}
    of_turn = [0] * 11
    for turns in dialogues:
        for index, turn in enumerate(turns):
            size = len(tokenizer.encode_batch([turn["content"]])[0]) + 1
            tokens[turn["role"]] += size
            of_turn[index] += size if turn["role"] != "system" else 0
    for row in rows:
        assert {name: row[f"{name}_tokens"] for name in ROLES} == {name: tokens[name] for name in ROLES}
        loss = row[f"{role}_nll"] * tokens[role] + row["end_nll"] * tokens["end"]
        assert row["validation_loss"] == pytest.approx(loss / (tokens[role] + tokens["end"]), rel=1e-9)
        assert row["ppl"] == pytest.approx(math.exp(row["validation_loss"]))
        words = sum(row[f"{name}_nll"] * tokens[name] for name in ("user", "assistant"))
        by_turn = sum((row[f"nll_turn_{turn:02d}"] or 0) * count for turn, count in enumerate(of_turn))
        assert by_turn == pytest.approx(words, rel=1e-9)
        assert [row[f"nll_turn_{turn:02d}"] is None for turn in range(11)] == [not count for count in of_turn]


def test_validation_by_role_is_the_same_whatever_the_schedule_while_the_weights_are(train):
    every = "validate_every_n_steps=3"
    step = train(every)
    for own in (SCHEDULES["random_turns"], LINE, ("mask_schedule=piecewise",), ("train_user_turn_mask_step=1",)):
        run = train(every, *own)
        assert run.rows("validation")[0] == step.rows("validation")[0]
        assert run.rows("validation")[1] != step.rows("validation")[1]


def scores(dialog_trainer, run: Path, *own: str) -> dict:
    command = ("mode=validate", f"resume_model_dir='{run}'", "load_model_type=last", *own)
    code, out, err = dialog_trainer(*command)
    assert code == 0, out + err
    return json.loads((run / "validation/validation/response/scores.json").read_text())


def test_mode_validate_gives_the_losses_of_the_last_row_whatever_the_mask_and_the_weights_of_the_data(
    train, dialog_trainer, tmp_path, folder
):
    trained = train()
    run = shutil.copytree(trained.folder, tmp_path / "run", symlinks=True)
    first = scores(dialog_trainer, run)
    row = trained.rows("validation")[-1]
    assert first["losses"] == {name: row[name] for name in first["losses"]}
    assert set(first["losses"]) >= {"user_nll", "assistant_nll", "end_nll", "end_tokens", "nll_turn_00", "nll_turn_10"}
    assert first["mask_digest"] == trained.state()["digest"]
    weighed = tmp_path / "weighed.jsonl"
    turns = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    for dialogue in turns:
        dialogue["messages"][-1] |= {"train": False}
        dialogue["messages"][-2] |= {"weight": 3} if dialogue["messages"][-2]["role"] != "system" else {}
    weighed.write_text("".join(json.dumps(dialogue) + "\n" for dialogue in turns))
    for own in (*SCHEDULES.values(), ("mask_schedule.normalize=fixed",), (f"data.validation_data_path='{weighed}'",)):
        found = scores(dialog_trainer, run, *own)
        assert found["losses"] == first["losses"]
        # Only who replies decides what is scored.
        same = own != SCHEDULES["user"]
        assert (found["validation_loss"] == first["validation_loss"]) == same
        assert (found["signature"] == first["signature"]) == (same and "validation_data_path" not in str(own))


def test_a_simulator_of_users_is_trained_and_scored_on_what_the_user_says(train, folder):
    run = train(*SCHEDULES["user"], "prediction_print_n=9", "metrics.max_dialogues=null")
    weights = [(row["user_weight"], row["assistant_weight"]) for row in run.rows("train")]
    assert weights == [(1, 1)] * 4 + [(1, 0)] * 4
    assert "all turns, user turns from step 4 (progress 0.50)" in run.out
    how = run.rows("validation")[0]["signature"]
    assert "protocol:response|role:user|context:gold|" in how
    assert "|dialogues:8/8|" in how
    dialogues = [json.loads(line)["messages"] for line in (folder / "validation.jsonl").read_text().splitlines()]
    said = [
        ([turn["content"] for turn in turns[:index]], turn["content"])
        for turns in dialogues
        for index, turn in enumerate(turns)
        if turn["role"] == "user" and index > 0
    ]
    replies = [json.loads(line) for line in (run.folder / "replies.jsonl").read_text().splitlines()]
    assert len(replies) == 9
    assert all((reply["history"], reply["reference"]) in said for reply in replies)


@pytest.mark.parametrize(
    ("own", "every", "probed"),
    [
        ((), 1, list(range(STEPS + 1))),
        ((*LINE, "precision=bf16", "micro_batch_tokens=64"), 3, [0, 3, 6]),
    ],
)
def test_a_probe_leaves_training_as_it_is(train, watched, options, tmp_path, own, every, probed):
    plain = train(*own)
    assert plain.rows("probe") == []
    looked_at = train(*own, f"mask_schedule.alignment_every_n_steps={every}")
    assert [row["step"] for row in looked_at.rows("probe")] == probed
    assert looked_at.steps == plain.steps
    assert looked_at.digests() == plain.digests()
    for split in ("train", "validation"):
        assert looked_at.rows(split) == plain.rows(split)
    assert looked_at.state()["digest"] == plain.state()["digest"]
    groups = ["", "_embeddings", "_block_00", "_head"]
    names = {f"alignment_{what}{group}" for what in ("cosine", "user_norm", "assistant_norm") for group in groups}
    assert all(set(row) - names == {"step", "epoch", "split"} for row in looked_at.rows("probe"))
    assert len({row["alignment_cosine"] for row in looked_at.rows("probe")}) > 1

    again = Trained(tmp_path / "runs/again")
    probe = f"mask_schedule.alignment_every_n_steps={every}"
    watched(again, *options, "name=again", *own, probe, "steps=5", f"schedule_steps={STEPS}")
    watched(again, "mode=resume", f"resume_model_dir='{again.folder}'", "load_model_type=last", f"steps={STEPS}")
    assert again.digests() == plain.digests()
    # The step of the resume is looked at by both attempts.
    twice = [row for row in looked_at.rows("probe") for _ in range(1 + (row["step"] == 5))]
    assert again.rows("probe") == twice


def test_the_figures_of_a_mask_are_drawn(dialog_trainer, options, tmp_path):
    code, out, err = dialog_trainer(
        *options, "figures.enabled=true", "steps=2", "mask_schedule.alignment_every_n_steps=2"
    )
    assert code == 0, out + err
    for name in ("loss_by_role", "loss_by_turn", "alignment", "lr_schedule"):
        assert (tmp_path / f"runs/run/vis_outputs/{name}.png").read_bytes().startswith(b"\x89PNG")

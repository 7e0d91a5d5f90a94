"""mode=verify_resume: runs that are stopped and resumed in other processes, against one that is not."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from helpers.processes import SERVER, rows

from dialog_trainer.cli.commands import stopped_run, verify_resume
from dialog_trainer.cli.commands.stopped_run import MIN_STEPS, plan_faults, validation_every
from dialog_trainer.cli.commands.verify_resume import compare_runs
from dialog_trainer.errors import TrainingError
from dialog_trainer.signals import StopRequest
from dialog_trainer.training.saved_state import read_state


@pytest.mark.parametrize("steps", [MIN_STEPS, 13, 60, 1001])
@pytest.mark.parametrize("switch", [None, 1, 0.1, 0.4, 0.5, 0.9])
def test_faults_have_room_and_cross_the_mask_switch(steps, switch):
    switch = int(switch * steps) or 1 if isinstance(switch, float) else switch
    first = validation_every(steps)
    for seed in range(20):
        faults = plan_faults(steps, switch, seed)
        assert [(fault.number, fault.place) for fault in faults] == [
            (signal.SIGTERM, "step"), (signal.SIGKILL, "step"), (signal.SIGTERM, "validation"), (signal.SIGKILL, "save"),
        ]  # fmt: skip
        terminated, killed, validated, saved = (fault.step for fault in faults)
        assert 1 <= terminated < (switch if switch and switch >= 4 else steps)
        assert first < killed < 2 * first < steps
        assert validated in (first, 2 * first)
        assert saved == 2 * first
    assert plan_faults(steps, switch, 3) == plan_faults(steps, switch, 3)
    assert len({plan_faults(steps, switch, seed)[1].step for seed in range(20)}) > 1


def edit_row(run: Path, split: str, place: int, **values) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in lines:
        if (row["split"], row["step"]) == (split, place):
            row |= values
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


def edit_reply(run: Path, text: str) -> None:
    lines = [json.loads(line) for line in (run / "replies.jsonl").read_text().splitlines()]
    lines[-1]["reply"] = text
    (run / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


def flip_a_bit(run: Path) -> None:
    for path in run.glob("weights/*/model.safetensors"):
        content = bytearray(path.read_bytes())
        content[-4] ^= 1
        path.unlink()  # in place, the hard links of the other names would be flipped back
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "starts"),
    [
        (lambda run: None, []),
        (lambda run: edit_row(run, "train", 2, time_seconds=9, tokens_per_second=9.0, data_seconds=9), []),
        (lambda run: edit_row(run, "train", 2, train_loss=1.5), ["metrics.jsonl, train: step 2, train_loss: 1.5 instead of "]),
        (lambda run: edit_row(run, "validation", 4, bleu2=2), ["metrics.jsonl, validation: step 4, bleu2: 2 instead of "]),
        (lambda run: edit_row(run, "train", 3, step=7), ["metrics.jsonl, train: step 3: is missing"]),
        (lambda run: edit_reply(run, "no"), ['replies.jsonl: step 4, 0, reply: "no" instead of ']),
        (flip_a_bit, [f"weights/{kind}: model.safetensors: transformer.wte.weight[" for kind in ("last", "best_metric", "best_loss")]),
        (lambda run: shutil.rmtree(run / "weights"), [f"weights/{kind}: is missing in " for kind in ("last", "best_metric", "best_loss")]),
    ],
)  # fmt: skip
def test_the_first_place_of_each_file_that_differs(change, starts, trained_run, tmp_path):
    other = shutil.copytree(trained_run, tmp_path / "other")
    change(other)
    found = compare_runs(trained_run, other)
    assert len(found) == len(starts)
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True)), found


def take_a_run(trained_run: Path, changed: str | None):
    """Stands for the processes: each run is a copy of a finished one, and `changed` gets another bit."""

    def copy(job) -> Path:
        run = Path(job.parent, job.name)
        shutil.copytree(trained_run, run)
        if job.name == changed:
            flip_a_bit(run)
        return run

    def run_to_end(job, output, stop):
        if job.name == "straight":
            copy(job)
        elif job.name == "fork":
            config = copy(job) / "args.yaml"
            config.write_text(config.read_text() + ("" if changed == "fork" else "origin: {step: 6}\n"))

    def run_until(fault, job, output, stop):
        return read_state(copy(job), "weights/last")

    return run_to_end, run_until


@pytest.mark.slow
@pytest.mark.parametrize(("changed", "code"), [(None, 0), ("sigkill-save", 1), ("fork", 1)])
def test_a_difference_is_exit_code_1_and_keeps_the_runs(
    changed, code, tiny_options, trained_run, tmp_path, monkeypatch, dialog_trainer
):
    run_to_end, run_until = take_a_run(trained_run, changed)
    monkeypatch.setattr(verify_resume, "run_to_end", run_to_end)
    monkeypatch.setattr(verify_resume, "run_until", run_until)
    found, out, err = dialog_trainer("mode=verify_resume", *tiny_options, "steps=12")
    assert found == code, out + err
    folder = tmp_path / "runs/run-verify_resume"
    assert "6 runs of 12 steps" in out
    if changed:
        assert sorted(path.name for path in folder.iterdir()) == sorted([changed, "straight"])
        assert f"{changed}: weights/last: model.safetensors: transformer.wte.weight[" in out
        assert out.count("equal\n") == 4
        assert ("fork: the branch was not used" in out) == (changed == "fork")
        assert str(folder) in out.splitlines()[-1]
    else:
        assert not folder.exists()
        assert out.count("equal\n") == 5
    assert rows(trained_run, "train")  # of the user's own run of that name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raised", "code", "kept"), [(TrainingError("no room"), 1, True), (StopRequest(75), 75, False)]
)
def test_a_failure_names_the_folder_and_a_stop_removes_it(
    raised, code, kept, tiny_options, tmp_path, monkeypatch, dialog_trainer
):
    def fail(*_):
        raise raised

    monkeypatch.setattr(verify_resume, "run_to_end", fail)
    found, out, err = dialog_trainer("mode=verify_resume", *tiny_options, "steps=12")
    folder = tmp_path / "runs/run-verify_resume"
    assert (found, folder.exists()) == (code, kept)
    assert f"kept in {folder}" in err if kept else f"{folder} is removed" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["steps=11"], "steps=11: mode=verify_resume needs at least 12"),
        (["steps=12", "processes=9"], "batch_size=8: 9 processes share a batch, so it must be at least 9"),
    ],
)
def test_what_cannot_be_checked_is_refused_before_anything_is_made(
    options, message, tiny_options, tmp_path, dialog_trainer
):
    code, _, err = dialog_trainer("mode=verify_resume", *tiny_options, *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_stopped_runs_are_equal_to_a_straight_one(tiny_options, tmp_path, monkeypatch, dialog_trainer):
    monkeypatch.setattr(stopped_run, "PROCESSES", SERVER)
    options = ["mode=verify_resume", "steps=20", "model.dropout=0.2", "batch_size=16", "seed=3"]
    code, out, err = dialog_trainer(*tiny_options, *options)
    assert code == 0, out + err
    table = out.partition("final files\n")[2].splitlines()[:5]
    assert [line.split("  ")[0].rstrip("0123456789 ") for line in table] == [
        "SIGTERM at step", "SIGKILL at step", "SIGTERM in the validation at step", "SIGKILL in the save at step",
        "fork of the straight run",
    ]  # fmt: skip
    assert all(line.endswith(" equal") for line in table)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == []

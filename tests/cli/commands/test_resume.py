"""Going on from a checkpoint, through the command line: exactly, with changed options, or not at all."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import yaml
from helpers.checkpoints import flip
from torch._dynamo.utils import counters

from dialog_trainer.build.evaluation import run_validation
from dialog_trainer.cli.commands import fit
from dialog_trainer.reporting.progress import RunProgress

pytestmark = pytest.mark.slow


def digests(run: Path, link: str = "last") -> list[str]:
    files = ("model.safetensors", "trainer/optimizer.safetensors")
    return [hashlib.sha256((run / "weights" / link / name).read_bytes()).hexdigest() for name in files]


def training_rows(run: Path) -> list[dict]:
    """Training rows without what may differ between two runs that are equal."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    unlike = ("time_seconds", "tokens_per_second", "data_seconds", "attempt")
    return [{k: v for k, v in row.items() if k not in unlike} for row in rows if row["split"] == "train"]


def state(run: Path, link: str = "last") -> dict:
    return json.loads((run / "weights" / link / "trainer/state.json").read_text())


@pytest.fixture
def tiny_options(tiny_options):
    return [*tiny_options, "micro_batch_tokens=256"]


@pytest.fixture(scope="module")
def trained():
    """Copies of runs as training left them, by their options."""
    return {}


@pytest.fixture
def train(dialog_trainer, tiny_options, tmp_path, trained, tmp_path_factory):
    """`train(name, *options)` gives a run of these options in `tmp_path/runs/name`, trained once, and copied."""

    def run(name, *options):
        folder = tmp_path / "runs" / name
        if options not in trained:
            code, out, err = dialog_trainer(*tiny_options, f"name={name}", *options)
            assert code == 0, out + err
            trained[options] = tmp_path_factory.mktemp("trained") / "run"
            shutil.copytree(folder, trained[options], symlinks=True)
        elif not folder.exists():
            shutil.copytree(trained[options], folder, symlinks=True)
        return folder

    return run


@pytest.fixture
def resume(dialog_trainer):
    """`resume(run, *options)` goes on from the last checkpoint and returns `(code, output, errors)`."""
    return lambda run, *options: dialog_trainer(
        "mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", *options
    )


# 5 steps an epoch. Before, after and at the switch of the mask (half the schedule, where nothing else is said).
@pytest.mark.parametrize(
    ("steps", "stop", "options"),
    [
        (12, 3, ()),
        (12, 5, ()),
        (12, 8, ()),
        (12, 6, ()),
        (12, 7, ("optim=sgd", "optim.lr0=0.1", "scheduler=linear")),
        (12, 5, ("optim=adam", "scheduler=constant", "data.truncation=keep_start")),
        (12, 9, ("max_grad_norm=null", "train_user_turn_mask_step=0", "data.truncation=keep_end")),
        (6, 3, ("precision=bf16",)),
    ],
)
def test_stopped_and_resumed_equals_straight(train, resume, steps, stop, options):
    options = ("model.dropout=0.2", "batch_size=24", *options)
    straight = train("straight", f"steps={steps}", *options)
    stopped = train("stopped", f"steps={stop}", f"schedule_steps={steps}", *options)
    code, out, err = resume(stopped, f"steps={steps}")
    assert code == 0, err
    assert digests(stopped) == digests(straight)
    assert training_rows(stopped) == training_rows(straight)
    counted = ("tokens_seen", "user_tokens_seen", "assistant_tokens_seen")
    for key in ("step", "epoch", "validated_step", *counted, "mask_final_from_step", "digest"):
        assert state(stopped)[key] == state(straight)[key]
    assert f"steps: {stop} -> {steps}" in out


@pytest.mark.filterwarnings("default")  # torch warns when it compiles, and stops half-way where warnings are errors
def test_a_compiled_run_compiles_before_its_first_step_and_never_again(train, monkeypatch):
    # What Dynamo captures: its graphs and machine code take a minute.
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    before = []
    begun = fit.train

    def counted(*arguments, **keys):
        before.append(counters["stats"]["unique_graphs"])
        return begun(*arguments, **keys)

    monkeypatch.setattr(fit, "train", counted)
    options = ("model.dropout=0.2", "batch_size=24", "steps=4", "mask_schedule.alignment_every_n_steps=2")
    plain = train("plain", "compile=false", *options)
    counters.clear()
    fast = train("fast", "compile=true", "validate_every_n_steps=2", *options)
    assert before[-1] == counters["stats"]["unique_graphs"] > 0
    for one, other in zip(training_rows(fast), training_rows(plain), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_a_schedule_of_the_length_of_the_run_may_be_asked_for(train, resume):
    run = train("run", "steps=2")
    code, out, err = resume(run, "steps=3", "schedule_steps=null")
    assert code == 0, err
    assert state(run)["schedule_steps"] == 3
    assert "schedules were planned" not in out


def test_a_best_of_other_held_out_dialogues_is_forgotten(train, resume, jsonl_folder):
    run = train("run", "steps=2")
    code, out, err = resume(run, "steps=3", "data=jsonl", f"data.train_data_path='{jsonl_folder}/train.jsonl'")
    assert code == 0, err
    for best in ("best_metric", "best_loss"):
        assert f"{best} was chosen on other data: the next validation sets it again" in out
    assert state(run)["kept"] == {"last": 3, "best_metric": 3, "best_loss": 3}


def test_resuming_at_the_end_of_an_epoch(train, resume):
    straight = train("straight", "steps=12", "model.dropout=0.2", "batch_size=24")
    per_epoch = next(row["step"] for row in training_rows(straight) if row["epoch"] == 1)
    stopped = train("stopped", f"steps={per_epoch}", "schedule_steps=12", "model.dropout=0.2", "batch_size=24")
    assert state(stopped)["epoch"] == 1
    assert resume(stopped, "steps=12")[0] == 0
    assert digests(stopped) == digests(straight)


def test_resuming_three_times_equals_straight(train, resume):
    straight = train("straight", "steps=8", "model.dropout=0.2")
    stopped = train("stopped", "steps=2", "schedule_steps=8", "model.dropout=0.2")
    for steps in (3, 6, 8):
        assert resume(stopped, f"steps={steps}")[0] == 0
    assert digests(stopped) == digests(straight)
    rows = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert [row["attempt"] for row in rows if row["split"] == "train"] == [0, 0, 1, 2, 2, 2, 3, 3]
    assert yaml.safe_load((stopped / "args.1.yaml").read_text())["steps"] == 3


def test_more_steps_leave_the_switch_where_it_was(train, resume):
    run = train("run", "steps=6", "train_user_turn_mask_step=0.5")
    code, out, _ = resume(run, "steps=9")
    assert code == 0
    assert (
        "schedules were planned over 6 steps and stay at their end values after that; schedule_steps=9 stretches" in out
    )
    rows = training_rows(run)
    assert [row["user_weight"] for row in rows] == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert state(run)["mask_final_from_step"] == 3
    assert rows[8]["lr"] == pytest.approx(1e-2 * 0.1)


def test_runs_that_differ_in_their_mask_have_equal_weights_up_to_the_switch(train):
    options = ("steps=3", "schedule_steps=6", "model.dropout=0.2")
    early = train("early", *options, "train_user_turn_mask_step=0.5")
    late = train("late", *options, "train_user_turn_mask_step=1")
    other = train("other", *options, "train_user_turn_mask_step=0.25")
    assert digests(early) == digests(late)
    assert digests(early) != digests(other)


def test_runs_that_differ_in_their_mask_have_equal_rows_until_it_does(train):
    early, late = train("early", "train_user_turn_mask_step=0.5"), train("late", "train_user_turn_mask_step=1")
    same = [a == b for a, b in zip(training_rows(early), training_rows(late), strict=True)]
    assert same == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("options", "changed", "lines"),
    [
        (["patience=9"], {"patience": 9}, ["patience: 5 -> 9"]),
        (["scheduler=linear"], {"scheduler._target_": "dialog_trainer.training.learning_rate.linear", "scheduler.warmup_steps": 2}, ["scheduler=linear: keeps of the run what all choices of scheduler have: scheduler.warmup_steps=2"]),
        (["scheduler.lrf=0.5", "scheduler=linear"], {"scheduler.lrf": 0.5, "scheduler.warmup_steps": 2}, ["scheduler.lrf: 0.1 -> 0.5"]),
        (["metrics.best={bleu4: 2}"], {"metrics.best": {"bleu4": 2}}, ["metrics.best: {'bleu2': 1.0} -> {'bleu4': 2.0}"]),
        (["batch_size=4"], {"batch_size": 4}, ["with other values of batch_size training goes on, but not exactly"]),
        (["seed=3", "data.truncation=keep_end"], {"seed": 3}, ["with other values of seed, data.truncation training goes on, but not exactly"]),
        (["model.max_len=32"], {"model.max_len": 32}, ["model.max_len: 48 -> 32"]),
        (["optim.lr0=0.5"], {"optim.lr0": 0.5, "optim.weight_decay": 0.01}, ["optim.lr0: 0.01 -> 0.5"]),
    ],
)  # fmt: skip
def test_what_is_typed_is_laid_on_what_was_saved(train, resume, options, changed, lines):
    run = train("run", "steps=2")
    before = yaml.safe_load((run / "args.yaml").read_text())
    code, out, err = resume(run, "steps=3", *options)
    assert code == 0, err
    after = yaml.safe_load((run / "args.yaml").read_text())
    for key, value in changed.items():
        group, _, name = key.partition(".")
        assert (after[group][name] if name else after[group]) == value
    assert all(line in out + err for line in lines), out
    untouched = (
        set(before)
        - {key.split(".")[0] for key in changed}
        - {"steps", "digest"}
        - {o.split("=")[0].split(".")[0] for o in options}
    )
    assert {key: after[key] for key in untouched} == {key: before[key] for key in untouched}
    assert yaml.safe_load((run / "args.0.yaml").read_text()) == before
    cut = {"data.truncation", "model.max_len"} & {option.split("=")[0] for option in options}
    parts = {name for name, digest in after["digest"].items() if digest != before["digest"][name]}
    assert parts == ({"truncation", "whole"} if cut else set())
    assert state(run)["digest"] == after["digest"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            ["model.width=32"],
            r"model.width: 16 -> 32 cannot change: .*model.pretrained_model='.*/weights/last'",
        ),
        (["optim=sgd"], r"optim._target_: torch.optim.AdamW -> torch.optim.SGD cannot change"),
        (["model=gpt2"], r"model.pretrained_model: null -> gpt2 cannot change"),
        (["experiment=demo"], r"experiment=: not on a saved run"),
        (["optim.momentum=0.5"], r"there is no option optim.momentum; optim=sgd has it"),
        (["model.max_len=65", "micro_batch_tokens=512"], r"model.positions=64: must be at least model.max_len=65"),
        (["stepz=3"], r"there is no option stepz; did you mean steps"),
        (["seed=0,1"], r"seed=0,1: .* -m"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(train, resume, options, reason):
    run = train("run", "steps=2")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, _, err = resume(run, "steps=3", *options)
    assert code == 2
    assert re.search(reason, err), err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_group_of_a_run_need_not_be_todays_default(train, resume):
    run = train("run", "steps=2", "optim=sgd")
    assert resume(run, "steps=3", "optim.momentum=0.5")[0] == 0
    assert yaml.safe_load((run / "args.yaml").read_text())["optim"]["momentum"] == 0.5


def test_a_finished_run_is_finished_already(train, resume):
    run = train("run", "steps=2")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, out, err = resume(run, "figures.enabled=true")
    assert (code, err) == (0, "")
    assert "has finished already, at step 2: nothing to do" in out
    assert f"chat:     python -m dialog_trainer mode=chat resume_model_dir={run}" in out
    drawn = {path.name for path in run.rglob("*.png")}
    assert {"loss.png", "scores.png"} <= drawn
    assert {path: path.read_bytes() for path in before} == before
    code, _, err = resume(run, "steps=1")
    assert code == 2
    assert "steps=1: this checkpoint has 2 updates already; pass a larger steps" in err


def test_a_run_that_stopped_early_says_what_to_pass(train, resume):
    options = ("optim.lr0=1e-12", "patience=1", "validate_every_n_steps=1", "train_user_turn_mask_step=0", "steps=9")
    run = train("run", *options)
    assert state(run)["step"] < 9
    code, out, err = resume(run)
    assert (code, err) == (0, "")
    assert "has stopped early already" in out
    code, _, err = resume(run, "steps=20")
    assert code == 2
    assert "patience=1: this checkpoint stopped early, after 1 validations without a better one" in err
    assert resume(run, "patience=9")[0] == 0


def tree_of(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


# A loss that only grows: the first validation stays the best one.
GROWING = ("optim=sgd", "optim.lr0=30", "max_grad_norm=null", "validate_every_n_steps=1", "steps=4")


def test_a_resume_from_an_older_checkpoint_is_a_new_run_as_it_would_have_been_in_place(train, dialog_trainer, tmp_path):
    run, again = train("run", *GROWING), train("again", *GROWING)
    best = state(run, "best_loss")["step"]
    assert best < 4
    before = tree_of(run)
    command = ("mode=resume", "load_model_type=loss", "optim.lr0=0.01", "batch_size=8")
    code, out, err = dialog_trainer(*command, f"resume_model_dir='{run}'")
    assert code == 0, err
    assert f"resuming from best_loss, step {best}; weights/last is at step 4: this makes a new run and leaves" in out
    assert tree_of(run) == before
    code, out, err = dialog_trainer(*command, f"resume_model_dir='{again}'", "resume.in_place=true")
    assert code == 0, err
    assert "and is removed (resume.in_place=true)" in out
    new = tmp_path / f"runs/run-from-{best}"
    for link in ("last", "best_metric", "best_loss"):
        assert digests(new, link) == digests(again, link)
    newest = {row["step"]: row for row in training_rows(again)}
    assert {row["step"]: row for row in training_rows(new)} == newest
    unlike = ("config", "run_id")
    assert {k: v for k, v in state(new).items() if k not in unlike} == {
        k: v for k, v in state(again).items() if k not in unlike
    }
    saved, old = (yaml.safe_load((folder / "args.yaml").read_text()) for folder in (new, run))
    assert saved["origin"] == {"run": str(run), "run_id": old["run_id"], "step": best}
    assert saved["run_id"] != old["run_id"]
    assert (saved["project"], saved["name"]) == (str(new.parent), new.name)
    assert dialog_trainer(*command, f"resume_model_dir='{run}'")[0] == 0
    assert (tmp_path / f"runs/run-from-{best}2").is_dir()


def test_a_damaged_last_checkpoint_is_put_aside_and_its_steps_repeated(train, resume):
    straight = train("straight", "steps=6", "save_every_n_steps=2")
    run = train("run", "steps=4", "schedule_steps=6", "save_every_n_steps=2", "validate_every_n_steps=6")
    flip(run / "weights/step-00000004/model.safetensors")
    code, out, err = resume(run, "steps=6")
    assert code == 0, err
    assert (
        "model.safetensors and manifest.json differ (sha256): one of them has changed since it was written): moved to"
        in out
    )
    assert "weights/step-00000002 (step 2) is the newest that is whole: later steps are repeated" in out
    assert digests(run) == digests(straight)
    flip(run / "weights/step-00000006/model.safetensors")
    flip(run / "weights/step-00000004/model.safetensors")
    for view in ("best_metric", "best_loss"):
        shutil.rmtree(run / "weights" / view)
    code, _, err = resume(run, "steps=8")
    assert code == 2
    assert "has no whole checkpoint: start the run again" in err


def test_an_edited_setting_is_told(train, resume):
    run = train("run", "steps=2")
    text = (run / "args.yaml").read_text()
    (run / "args.yaml").write_text(text.replace("dropout: 0.1", "dropout: 0.3"))
    assert text != (run / "args.yaml").read_text()
    code, out, err = resume(run, "steps=3")
    assert code == 0, err
    assert "model.dropout: 0.1 at the checkpoint -> 0.3 in args.yaml" in out
    assert "args.yaml has other values of model.dropout: training goes on, not exactly" in out
    code, out, err = resume(run, "steps=4")
    assert code == 0, err
    assert "args.yaml" not in out


def test_a_checkpoint_of_another_run_is_told(train, resume):
    run, other = train("run", "steps=2"), train("other", "steps=2", "seed=7")
    shutil.rmtree(run / "weights")
    shutil.copytree(other / "weights", run / "weights")
    code, out, err = resume(run, "steps=3")
    assert code == 0, err
    assert "note: this checkpoint is of another run (id " in out
    assert "seed: 7 at the checkpoint -> 0 in args.yaml" in out


@pytest.mark.parametrize("value", ["0", "0.0", "1", "1.0"])
def test_a_number_is_the_same_setting_however_it_is_typed(train, resume, value):
    run = train("run", "steps=2", f"train_user_turn_mask_step={float(value)}", "scheduler.lrf=1.0")
    code, out, err = resume(run, "steps=3", f"train_user_turn_mask_step={value}", "scheduler.lrf=1")
    assert code == 0, err
    assert "train_user_turn_mask_step:" not in out
    assert "scheduler.lrf:" not in out
    assert "differs from the checkpoint's" not in out


def test_a_stop_before_the_first_step_leaves_a_checkpoint_to_go_on_from(
    dialog_trainer, tiny_options, resume, train, tmp_path
):
    enter = RunProgress.__enter__

    def stopped_before(progress):
        signal.raise_signal(signal.SIGINT)
        return enter(progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunProgress, "__enter__", stopped_before)
        code, out, _ = dialog_trainer(*tiny_options, "name=stopped", "steps=3")
    assert code == 130
    assert "interrupted at step 0" in out
    stopped = tmp_path / "runs/stopped"
    assert resume(stopped)[0] == 0
    straight = train("straight", "steps=3")
    assert digests(stopped) == digests(straight)
    assert training_rows(stopped) == training_rows(straight)


def test_a_stop_in_the_last_validation_leaves_it_to_the_resume(dialog_trainer, tiny_options, resume, tmp_path, train):
    def stopped_in(*arguments, **keys):
        signal.raise_signal(signal.SIGTERM)
        return run_validation(*arguments, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dialog_trainer.cli.commands.callbacks.run_validation", stopped_in)
        code, out, _ = dialog_trainer(*tiny_options, "name=stopped", "steps=3")
    assert code == 75
    assert "interrupted at step 3" in out
    stopped = tmp_path / "runs/stopped"
    assert (state(stopped)["step"], state(stopped)["validated_step"]) == (3, 0)
    code, _, err = resume(stopped)
    assert code == 0, err
    straight = train("straight", "steps=3")
    for link in ("last", "best_metric", "best_loss"):
        assert digests(stopped, link) == digests(straight, link)
    code, out, err = resume(stopped)
    assert code == 0, err
    assert "has finished already" in out


def test_a_run_that_is_in_training_is_left_alone(train, resume):
    run = train("run", "steps=2")
    descriptor = os.open(run, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        code, _, err = resume(run, "steps=3")
    finally:
        os.close(descriptor)
    assert code == 2
    assert "is in use by another process" in err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("name: ${oc.env:HOME}", r"name: '\$\{' is refused"),
        ("colour: red", r"colour: there is no such option"),
        ("scheduler: {_target_: os.system}", r"scheduler._target_=os.system: not one of"),
        (
            "scheduler: {_target_: os.system}\nallow_targets: [os.system]",
            r"scheduler._target_=os.system: not one of",
        ),
        ("data: {_target_: dialog_trainer.data.sources.ChitChat}", r"data.truncation: is missing"),
        ("scheduler: {_target_: dialog_trainer.training.learning_rate.cosine}", r"scheduler.warmup_steps: is missing"),
        ("metrics: {names: [ppl]}", r"metrics.best: is missing"),
        ("chat: {}", r"chat.generation.top_p: is missing"),
        ("- steps", r"cannot be read as plain YAML"),
        ("seed: !!python/object/apply:os.system ['touch canary']", r"cannot be read as plain YAML"),
        ("optim: 3", r"optim: is missing"),
        ("steps: -1", r"steps=-1: must be a whole number"),
    ],
)
def test_saved_settings_are_a_strangers(train, resume, change, reason, tmp_path, monkeypatch):
    run = train("run", "steps=2")
    monkeypatch.chdir(tmp_path)
    saved = yaml.safe_load((run / "args.yaml").read_text())
    for line in change.split("\n"):
        saved.pop(line.partition(":")[0], None)
    (run / "args.yaml").write_text(f"{yaml.safe_dump(saved)}{change}\n")
    code, _, err = resume(run, "patience=9")
    assert code == 2
    assert re.search(reason, err), err
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("key", ["data.path", "data.hub_id", "scheduler.lrf"])
def test_a_key_that_the_saved_choice_needs_is_missed_by_name(train, resume, key):
    run = train("run", "steps=2")
    saved = yaml.safe_load((run / "args.yaml").read_text())
    group, name = key.split(".")
    del saved[group][name]
    (run / "args.yaml").write_text(yaml.safe_dump(saved))
    code, _, err = resume(run, "steps=3")
    assert code == 2
    assert f"{key}: is missing; every choice of its group has it" in err
    assert yaml.safe_load((run / "args.yaml").read_text()) == saved


def test_a_folder_without_a_run_is_named(resume, tmp_path):
    for folder, reason in ((tmp_path / "nowhere", "there is no such folder"), (tmp_path, "holds no run")):
        code, _, err = resume(folder)
        assert code == 2
        assert f"resume_model_dir={folder}: {reason}" in err


def test_trained_weights_start_another_run(train, dialog_trainer, tiny_options, tmp_path):
    run = train("run", "steps=2")
    weights = f"model.pretrained_model='{run}/weights/last'"
    code, _, err = dialog_trainer(*tiny_options, "name=anew", weights, "optim=sgd")
    assert code == 0, err
    first = json.loads((tmp_path / "runs/anew/metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0
    again = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["train_loss"] < again["train_loss"]


def test_what_came_after_an_earlier_checkpoint_is_no_longer_the_best(train, dialog_trainer, tmp_path, monkeypatch):
    scores = iter((0.3, 0.2, 0.1))
    monkeypatch.setattr("dialog_trainer.cli.commands.callbacks.weighted_score", lambda *given: next(scores))
    run = train("run", "steps=4", "validate_every_n_steps=2", "save_every_n_steps=1")
    assert [state(run, link)["step"] for link in ("best_metric", "best_loss")] == [2, 4]
    command = ("mode=resume", f"resume_model_dir='{run}'", "load_model_type=metric", "steps=3", "optim.lr0=1e-12")
    code, _, err = dialog_trainer(*command)
    assert code == 0, err
    new = tmp_path / "runs/run-from-2"
    kept = state(new)["kept"]
    assert kept == {link: state(new, link)["step"] for link in kept}
    assert (kept["last"], kept["best_metric"]) == (3, 2)


@pytest.mark.parametrize(
    ("change", "said", "at_three"),
    [
        ("metrics.best={bleu4: 0}", ["best_metric was chosen by another score"], ["best_metric"]),
        (
            "mask_schedule.trained_role=user",
            ["best_metric was chosen by another score", "best_loss was chosen by the loss of another role"],
            ["best_metric", "best_loss"],
        ),
        ("metrics.common=[lr]", [], []),
    ],
)
def test_a_best_score_of_another_meaning_is_forgotten(train, dialog_trainer, change, said, at_three):
    """The score is always 0, and the learning rate so large that the last step spoils the weights: nothing is better."""
    run = train("run", "steps=2", "validate_every_n_steps=1", "metrics.best={bleu2: 0}")
    command = ("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", "steps=3", "optim.lr0=10")
    code, out, err = dialog_trainer(*command, change)
    assert code == 0, err
    assert [line for line in said if line in out] == said
    assert out.count("was chosen by") == len(said)
    assert [link for link in ("best_metric", "best_loss") if state(run, link)["step"] == 3] == at_three


def test_an_optimizer_setting_that_its_state_does_not_know_is_refused(train, resume):
    run = train("run", "steps=2")
    before = (run / "args.yaml").read_bytes()
    code, _, err = resume(run, "steps=3", "+optim.amsgrad=true")
    assert code == 2
    assert "optim.amsgrad: (none) -> true cannot change: the saved optimizer state is of that kind" in err
    assert (run / "args.yaml").read_bytes() == before


def test_the_first_line_counts_the_resumes_of_a_run(resume, trained_run):
    for number in (1, 2):
        code, out, err = resume(trained_run, f"steps={4 + number}")
        assert code == 0, err
        assert f"(step {3 + number}): resume {number} of this run\n" in out

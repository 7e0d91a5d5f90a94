"""`weights/` of a run: how a checkpoint is published, found, kept and removed, whatever happens in between."""

import errno
import os
import shutil
import signal

import pytest
from helpers.checkpoints import flip, make_saver
from transformers import AutoModelForCausalLM

from dialog_trainer.errors import CheckpointError, TrainingError
from dialog_trainer.training.checkpoint_directory import find_checkpoint, hold_checkpoint, locate
from dialog_trainer.training.checkpoint_publishing import (
    forget_later,
    fork_checkpoints,
    repair,
)
from dialog_trainer.training.saved_state import read_state


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def save(tiny_model, tokenizer, run):
    return make_saver(tiny_model, tokenizer, run)


def names(run):
    return sorted(os.listdir(run / "weights"))


def step_at(run, kind):
    return read_state(run, find_checkpoint(run, kind)).step


def steps(run):
    """The step of what each directory holds."""
    return {name: read_state(run, f"weights/{name}").step for name in names(run) if name != "damaged"}


def test_every_name_is_a_whole_directory(save, run):
    save(1, best_metric=1, best_loss=1)
    save(2, best_metric=1, best_loss=2)
    save(3, best_metric=1, best_loss=2)
    assert steps(run) == {"best_loss": 2, "best_metric": 1, "last": 3, "step-00000002": 2, "step-00000003": 3}
    for name in names(run):
        AutoModelForCausalLM.from_pretrained(run / "weights" / name)
    assert [step_at(run, kind) for kind in ("last", "metric", "loss")] == [3, 1, 2]
    assert not any(path.is_symlink() for path in run.rglob("*"))


def test_equal_files_are_stored_once(save, run):
    save(1, best_metric=1, best_loss=1)
    inodes = {(run / "weights" / name / "model.safetensors").stat().st_ino for name in names(run)}
    assert len(inodes) == 1


def test_without_hard_links_files_are_copied(save, run, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *arguments, **keys: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    save(1, best_loss=1)
    save(2, best_loss=1)
    assert steps(run) == {"best_loss": 1, "last": 2, "step-00000001": 1, "step-00000002": 2}
    assert step_at(run, "loss") == 1


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_are_kept(tiny_model, tokenizer, run, keep):
    save = make_saver(tiny_model, tokenizer, run, keep)
    for step in range(1, 6):
        save(step)
    assert names(run) == ["last", *(f"step-{step:08d}" for step in range(6 - keep, 6))]


def test_a_step_saved_twice_gets_another_name(save, run):
    save(1)
    save(1)
    assert find_checkpoint(run, "last") == "weights/step-00000001-2"


def test_leftovers_go_and_files_of_the_user_stay(save, run):
    save(1)
    for name in (".aside-1", ".gone-step-00000001", "my copy"):
        (run / "weights" / name / "trainer").mkdir(parents=True)
    (run / "weights/.last-1").symlink_to("step-00000009")
    (run / "weights/notes.txt").write_text("good")
    save(2)
    assert names(run) == ["last", "my copy", "notes.txt", "step-00000001", "step-00000002"]


COPIES = {
    "as it is": lambda source, target: shutil.copytree(source, target, symlinks=True),
    "without step-*": lambda source, target: shutil.copytree(source, target, ignore=shutil.ignore_patterns("step-*")),
    "of step-* alone": lambda source, target: shutil.copytree(
        source, target, ignore=shutil.ignore_patterns("last", "best_*")
    ),
    "zipped": lambda source, target: shutil.unpack_archive(
        shutil.make_archive(str(target.parent / "run"), "zip", source), target
    ),
}


def link_as_before(run):
    """Makes what version 0.2 made of these checkpoints: links."""
    for name in ("last", "best_loss"):
        step = read_state(run, f"weights/{name}").step
        shutil.rmtree(run / "weights" / name)
        (run / "weights" / name).symlink_to(f"step-{step:08d}")


@pytest.mark.parametrize("linked", [False, True], ids=["directories", "links"])
@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_a_run(save, tiny_model, tokenizer, run, tmp_path, copy, linked):
    save(1, best_loss=1)
    save(2, best_loss=1)
    if linked:
        link_as_before(run)
    copy(run, tmp_path / "copy")
    again = tmp_path / "copy"
    assert [step_at(again, kind) for kind in ("last", "loss")] == [2, 1]
    repair(again)
    assert {name: step for name, step in steps(again).items() if "step" not in name} == {"best_loss": 1, "last": 2}
    make_saver(tiny_model, tokenizer, again)(3, best_loss=1)
    assert [step_at(again, kind) for kind in ("last", "loss")] == [3, 1]


def test_a_copy_with_links_followed_is_a_run(save, run, tmp_path):
    save(1, best_loss=1)
    save(2, best_loss=1)
    link_as_before(run)
    shutil.copytree(run, tmp_path / "copy", symlinks=False)
    repair(tmp_path / "copy")
    assert [step_at(tmp_path / "copy", kind) for kind in ("last", "loss")] == [2, 1]


def error_or_path(call, *arguments, **keys):
    """What a call returns, or nothing where it is refused for a link."""
    try:
        found = call(*arguments, **keys)
        return [found] if found else []
    except (CheckpointError, OSError, TrainingError):
        return []


@pytest.mark.parametrize("inner", ["weights", "weights/last", "weights/step-00000001", "weights/best_loss/trainer"])
def test_no_link_leads_out_of_a_run(save, run, tmp_path, inner):
    save(1, best_loss=1)
    victim = tmp_path / "victim"
    (run / inner).rename(victim)
    (run / inner).symlink_to(victim)
    before = sorted(victim.rglob("*"))
    for kind in ("last", "loss"):
        assert victim not in [(run / found).resolve() for found in error_or_path(find_checkpoint, run, kind)]
    error_or_path(repair, run)
    error_or_path(save, 2, best_loss=2)
    assert sorted(victim.rglob("*")) == before


STAGES = {
    "make": "os.mkdir",
    "write weights": "dialog_trainer.training.checkpoint.save_file",
    "write state": "pathlib.Path.write_text",
    "write tokenizer": "transformers.PreTrainedTokenizerFast.save_pretrained",
    "sync": "os.fsync",
    "rename": "os.rename",
    "link": "os.link",
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_full_disk_leaves_the_earlier_checkpoint(save, run, monkeypatch, stage):
    save(1, best_loss=1)

    def full(*arguments, **keys):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stage, full)
        if stage == "os.link":  # a file system without links: copies
            patch.setattr(shutil, "copyfile", full)
        with pytest.raises(TrainingError, match=r"step 2 .*No space left.*MiB free.*mode=resume load_model_type=last"):
            save(2, best_loss=1)
    whole = step_at(run, "last")
    assert whole == (2 if stage == "os.link" else 1)
    assert step_at(run, "loss") == 1
    assert not [name for name in names(run) if name.startswith(".")]
    repair(run)
    save(3, best_loss=3)
    assert steps(run) == {"best_loss": 3, "last": 3, f"step-{whole:08d}": whole, "step-00000003": 3}


POINTS = [("os.mkdir", 1), ("os.mkdir", 2), ("dialog_trainer.training.checkpoint.save_file", 1), ("os.fsync", 1)]
POINTS += [("os.rename", count) for count in range(1, 10)] + [("os.link", count) for count in (1, 9, 10, 19)]
POINTS += [("shutil.rmtree", count) for count in (1, 2, 3)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(("stage", "count"), POINTS)
def test_kill_at_any_point_of_a_save_loses_nothing(save, run, monkeypatch, stage, count):
    save(1, best_loss=1, best_metric=1)
    save(2, best_loss=1, best_metric=1)
    child = os.fork()
    if child == 0:
        module, _, name = stage.rpartition(".")
        calls, original = [], getattr(__import__(module, fromlist=["x"]), name)

        def killed(*arguments, **keys):
            calls.append(1)
            if len(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **keys)

        try:
            monkeypatch.setattr(stage, killed)
            save(3, best_loss=3, best_metric=3)
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    last = step_at(run, "last")
    assert last in (2, 3)
    best = 3 if last == 3 else 1
    assert [step_at(run, kind) for kind in ("metric", "loss")] == [best, best]
    repair(run)
    assert {name: step for name, step in steps(run).items() if "step" not in name} == {
        "last": last, "best_metric": best, "best_loss": best,
    }  # fmt: skip
    assert not [name for name in names(run) if name.startswith(".")]
    save(4, best_loss=4, best_metric=best)
    assert [step_at(run, kind) for kind in ("last", "metric", "loss")] == [4, best, 4]


def test_a_damaged_checkpoint_is_named_and_a_whole_one_offered(save, run):
    save(1, best_metric=1, best_loss=1)
    save(2, best_metric=1, best_loss=1)
    flip(run / "weights/step-00000002/model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"'last' of .* is damaged and cannot be used: .*pass load_model_type=metric"
    ):
        find_checkpoint(run, "last")
    flip(run / "weights/best_loss/model.safetensors")
    with pytest.raises(CheckpointError, match="no whole checkpoint is left"):
        find_checkpoint(run, "last")


@pytest.mark.parametrize("name", ["model.safetensors", "trainer/state.json", "manifest.json"])
def test_a_resume_puts_a_damaged_last_one_aside_and_takes_the_one_before(save, run, name):
    save(1, best_loss=1)
    save(2, best_loss=2)
    save(3, best_loss=2)
    flip(run / "weights/step-00000003" / name)
    found, lines = repair(run)
    assert found == "weights/step-00000002"
    assert all(name in line and "moved to" in line for line in lines)  # `last` is the same file as step 3
    assert "weights/step-00000003" in lines[0]
    assert any(path.name.startswith("step-00000003-") for path in (run / "weights/damaged").iterdir())
    assert steps(run) == {"best_loss": 2, "last": 2, "step-00000002": 2}


def test_a_best_one_is_the_last_resort(save, run):
    save(1, best_loss=1)
    save(2, best_loss=1)
    save(3, best_loss=1)
    for step in (2, 3):
        flip(run / f"weights/step-{step:08d}/model.safetensors")
    found, lines = repair(run)
    assert found == "weights/best_loss"
    assert "weights/step-00000002" in lines[-1]
    assert step_at(run, "last") == 1


def test_no_whole_checkpoint_is_an_error_that_names_all(save, run):
    save(1)
    flip(run / "weights/last/model.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)moved to.*has no whole checkpoint: start the run again"):
        repair(run)


def test_going_back_in_place_removes_what_came_after(save, run):
    save(1, best_metric=1, best_loss=1)
    save(2, best_metric=1, best_loss=2)
    save(3, best_metric=3, best_loss=2)
    lost = forget_later(run, read_state(run, "weights/step-00000002"))
    assert lost == ["best_metric"]  # that of step 1 was replaced at step 3
    assert steps(run) == {"best_loss": 2, "best_metric": 2, "last": 2, "step-00000002": 2}


def test_a_fork_has_the_checkpoint_and_its_best_ones(save, run, tmp_path):
    save(1, best_metric=1, best_loss=1)
    save(2, best_metric=1, best_loss=2)
    save(3, best_metric=1, best_loss=3)
    before = steps(run)
    (tmp_path / "new").mkdir()
    missing = fork_checkpoints(run, "weights/step-00000002", tmp_path / "new")
    assert (missing, steps(run)) == ([], before)
    assert steps(tmp_path / "new") == {"best_loss": 2, "best_metric": 1, "last": 2, "step-00000002": 2}


def test_a_missing_checkpoint_names_another(save, run):
    with pytest.raises(CheckpointError, match="start it again"):
        find_checkpoint(run, "metric")
    save(1)
    with pytest.raises(CheckpointError, match="no checkpoint 'best_metric'; pass load_model_type=last"):
        find_checkpoint(run, "metric")


@pytest.mark.parametrize("kind", ["last", "metric"])
def test_what_a_reader_holds_stays(save, run, kind):
    save(1, best_metric=1)
    with hold_checkpoint(run, kind) as held:
        before = (run / held).stat().st_ino
        for step in range(2, 6):
            save(step, best_metric=step)
        assert (run / held).stat().st_ino == before
        assert read_state(run, held).step == 1
        assert step_at(run, kind) == 5
    save(6, best_metric=5)
    assert steps(run) == {"best_metric": 5, "last": 6, "step-00000005": 5, "step-00000006": 6}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_reader_of_a_run_that_saves_gets_a_whole_checkpoint_each_time(save, run):
    save(1, best_loss=1)
    child = os.fork()
    if child == 0:
        try:
            for step in range(2, 40):
                save(step, best_loss=step)
        finally:
            os._exit(0)
    seen = []
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        for kind in ("last", "loss"):
            with hold_checkpoint(run, kind) as held:
                seen.append(read_state(run, held).step)
                AutoModelForCausalLM.from_pretrained(run / held)
    assert len(set(seen)) > 2
    assert locate(run, "last") == "weights/step-00000039"


@pytest.mark.parametrize("kind", ["link", "file"])
@pytest.mark.parametrize("use", [lambda run: find_checkpoint(run, "last"), repair])
def test_weights_that_are_no_directory_are_an_error_of_the_checkpoint(run, save, kind, use):
    save(1)
    (run / "weights").rename(run / "elsewhere")
    if kind == "link":
        (run / "weights").symlink_to("elsewhere")
    else:
        (run / "weights").touch()
    with pytest.raises(CheckpointError, match=r"weights: .*; put the directory itself in its place"):
        use(run)

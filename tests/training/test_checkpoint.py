"""Checkpoints: what they hold, how they are published, and how damage is found."""

import errno
import json
import os
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dialog_trainer.errors import CheckpointError, TrainingError
from dialog_trainer.model.packed_forward import padded_attention
from dialog_trainer.training.checkpoint import collect_tensors, find_checkpoint, load_optimizer, save_checkpoint

FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "manifest.json",
    "trainer/state.json",
    "trainer/optimizer.safetensors",
}


@pytest.fixture
def saver(tiny_model, tokenizer, tmp_path):
    """`save(step, *links)` into `tmp_path/weights`, with an optimizer that has made one update."""
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=0.1)
    with padded_attention(tiny_model):
        tiny_model(input_ids=torch.arange(5)[None]).logits.sum().backward()
    optimizer.step()

    def save(step, *links):
        save_checkpoint(
            tmp_path / "weights",
            links or ("last",),
            model=tiny_model,
            tokenizer=tokenizer,
            tensors=collect_tensors(tiny_model, optimizer),
            state={"step": step},
        )

    return save


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_checkpoint_is_a_hugging_face_directory(saver, tiny_model, tokenizer, tmp_path):
    saver(7, "last", "best_loss")
    for link in ("last", "best_loss"):
        place = tmp_path / "weights" / link
        assert os.readlink(place) == "step-00000007"
        loaded = AutoModelForCausalLM.from_pretrained(place)
        for (name, found), (_, expected) in zip(loaded.named_parameters(), tiny_model.named_parameters(), strict=True):
            assert torch.equal(found, expected), name
        assert loaded.config._attn_implementation == "sdpa"
        assert len(AutoTokenizer.from_pretrained(place)) == len(tokenizer)
    found = {
        path.relative_to(tmp_path / "weights/step-00000007").as_posix()
        for path in (tmp_path / "weights/step-00000007").rglob("*")
        if path.is_file()
    }
    assert found == FILES


def test_manifest_names_every_other_file(saver, tmp_path):
    saver(1)
    folder = tmp_path / "weights/step-00000001"
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(files) == FILES - {"manifest.json"}
    assert all((folder / name).stat().st_size == size for name, (size, _) in files.items())


def test_unlinked_directories_are_removed(saver, tmp_path):
    saver(1, "last", "best_metric", "best_loss")
    saver(2, "last", "best_loss")
    assert names(tmp_path / "weights") == ["best_loss", "best_metric", "last", "step-00000001", "step-00000002"]
    saver(3, "last", "best_metric")
    saver(4, "last", "best_loss")
    assert names(tmp_path / "weights") == ["best_loss", "best_metric", "last", "step-00000003", "step-00000004"]


def test_step_saved_twice_gets_another_name(saver, tmp_path):
    saver(1, "last", "best_loss")
    saver(1, "last")
    assert os.readlink(tmp_path / "weights/last") == "step-00000001-2"
    assert os.readlink(tmp_path / "weights/best_loss") == "step-00000001"


def test_leftovers_go_and_files_of_the_user_stay(saver, tmp_path):
    weights = tmp_path / "weights"
    saver(1)
    (weights / "mine").symlink_to("step-00000001")
    for name in (".aside-1", ".gone-step-00000001", "step-00000009", "step-00000009-2", "my copy"):
        (weights / name / "trainer").mkdir(parents=True)
    (weights / ".last-1").symlink_to("step-00000009")
    (weights / "notes.txt").write_text("good")
    saver(2)
    assert names(weights) == ["last", "mine", "my copy", "notes.txt", "step-00000001", "step-00000002"]


def test_no_file_is_a_pickle(saver, tmp_path):
    saver(1)
    for path in (path for path in (tmp_path / "weights/last").rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not zipfile.is_zipfile(path), path
        # Pickle protocols 2 to 5 start with their number, older ones end with a full stop.
        assert not content.startswith(b"\x80"), path
        assert not content.endswith(b"."), path


def test_directory_is_renamed_after_every_file_is_synced(saver, monkeypatch):
    synced, named = set(), []
    fsync, rename = os.fsync, Path.rename

    def recording_fsync(descriptor):
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def recording_rename(source, target):
        inodes = {path.relative_to(source).as_posix(): path.stat().st_ino for path in source.rglob("*")}
        assert set(inodes) == FILES | {"trainer"}
        assert {name for name, inode in inodes.items() if inode not in synced} == set()
        named.append(target.name)
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "rename", recording_rename)
    saver(1)
    assert named == ["step-00000001"]


def test_last_is_relinked_last_and_old_directories_go_after_it(saver, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    saver(1, "last", "best_metric", "best_loss")
    swapped, replace = [], os.replace

    def recording(source, target):
        assert (weights / "step-00000001/manifest.json").exists()
        replace(source, target)
        swapped.append(target.name)

    monkeypatch.setattr(os, "replace", recording)
    saver(2, "last", "best_metric", "best_loss")
    # A process killed in between finds `last` as it was, and makes the validation and its links again.
    assert swapped == ["best_metric", "best_loss", "last"]
    assert names(weights) == ["best_loss", "best_metric", "last", "step-00000002"]


def damage_byte(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def damage_length(folder):
    (folder / "trainer/optimizer.safetensors").write_bytes(b"")


def damage_missing(folder):
    (folder / "trainer/state.json").unlink()


def damage_manifest(folder):
    (folder / "manifest.json").write_text("[1, 2]")


def damage_manifest_names_nothing(folder):
    (folder / "manifest.json").write_text('{"format": 1, "files": {}}')


def damage_no_manifest(folder):
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_byte, r"model.safetensors has changed since it was written"),
        (damage_length, r"optimizer.safetensors has 0 bytes instead of"),
        (damage_missing, r"state.json"),
        (damage_manifest, r"list indices"),
        (damage_manifest_names_nothing, r"does not name config.json"),
        (damage_no_manifest, r"No such file or directory: .*manifest.json"),
    ],
)
def test_damaged_checkpoint_is_named_and_an_intact_one_offered(saver, tmp_path, damage, reason):
    saver(1, "best_metric", "best_loss")
    saver(2, "last")
    assert find_checkpoint(tmp_path, "last").name == "step-00000002"
    damage(tmp_path / "weights/step-00000002")
    with pytest.raises(
        CheckpointError, match=rf"weights/last is damaged and cannot be used: .*{reason}.*load_model_type=metric"
    ):
        find_checkpoint(tmp_path, "last")
    damage(tmp_path / "weights/step-00000001")
    with pytest.raises(CheckpointError, match="no intact checkpoint is left"):
        find_checkpoint(tmp_path, "last")


def test_missing_checkpoint_names_another(saver, tmp_path):
    with pytest.raises(CheckpointError, match="start it again"):
        find_checkpoint(tmp_path, "metric")
    saver(1, "last")
    with pytest.raises(CheckpointError, match="no checkpoint 'best_metric'; pass load_model_type=last"):
        find_checkpoint(tmp_path, "metric")


STAGES = (
    "pathlib.Path.mkdir",
    "dialog_trainer.training.checkpoint.save_file",
    "pathlib.Path.write_text",
    "os.fsync",
    "pathlib.Path.rename",
    "pathlib.Path.symlink_to",
    "os.replace",
)


@pytest.mark.parametrize("stage", STAGES)
def test_full_disk_leaves_the_earlier_checkpoint(saver, tmp_path, monkeypatch, stage):
    saver(1, "last", "best_loss")

    def full(*arguments, **keys):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stage, full)
        with pytest.raises(TrainingError, match=r"step 2 .*No space left.*MiB free.*mode=resume load_model_type=last"):
            saver(2, "last")
    assert find_checkpoint(tmp_path, "last").name == "step-00000001"
    assert names(tmp_path / "weights") == ["best_loss", "last", "step-00000001"]
    saver(3, "last")
    assert find_checkpoint(tmp_path, "last").name == "step-00000003"
    assert names(tmp_path / "weights") == ["best_loss", "last", "step-00000001", "step-00000003"]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("stage", [*STAGES, "shutil.rmtree"])
def test_kill_during_a_save_leaves_complete_checkpoints(saver, tmp_path, monkeypatch, stage):
    saver(1, "last", "best_loss")
    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(stage, lambda *arguments, **keys: os.kill(os.getpid(), signal.SIGKILL))
            saver(2, "last", "best_metric", "best_loss")
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    last = {"shutil.rmtree": "step-00000002"}.get(stage, "step-00000001")
    assert find_checkpoint(tmp_path, "last").name == last
    saver(3, "last", "best_metric", "best_loss")
    assert names(tmp_path / "weights") == ["best_loss", "best_metric", "last", "step-00000003"]


def test_full_disk_before_the_first_checkpoint(saver, monkeypatch):
    def full(*arguments, **keys):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(TrainingError, match=r"step 1 .*No space left"):
        saver(1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(torch.optim.AdamW, {}), (torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.9}), (torch.optim.SGD, {})],
)
def test_optimizer_state_is_restored_bit_for_bit(tiny_model, tokenizer, tmp_path, kind, settings):
    optimizer = kind(tiny_model.parameters(), lr=0.1, **settings)
    for _ in range(2):
        optimizer.zero_grad()
        with padded_attention(tiny_model):
            tiny_model(input_ids=torch.arange(9)[None]).logits.pow(2).sum().backward()
        optimizer.step()
    save_checkpoint(
        tmp_path / "w",
        ("last",),
        model=tiny_model,
        tokenizer=tokenizer,
        tensors=collect_tensors(tiny_model, optimizer),
        state={"step": 2},
    )
    again = kind(tiny_model.parameters(), lr=0.5, **settings)
    load_optimizer(tmp_path / "w/last", tiny_model, again)
    before, after = optimizer.state_dict()["state"], again.state_dict()["state"]
    kept = {
        index: {slot: value for slot, value in slots.items() if value is not None} for index, slots in before.items()
    }
    kept = {index: slots for index, slots in kept.items() if slots}
    assert {index: set(slots) for index, slots in kept.items()} == {index: set(slots) for index, slots in after.items()}
    for index, slots in kept.items():
        for slot, value in slots.items():
            assert torch.equal(value, after[index][slot])
    assert again.param_groups[0]["lr"] == 0.5

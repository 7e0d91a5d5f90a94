"""The content of a checkpoint: what it holds, and how damage and what does not fit are found."""

import json
import os
import zipfile

import pytest
import torch
from helpers.checkpoints import flip, make_saver, state_of
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dialog_trainer.errors import CheckpointError
from dialog_trainer.model.packed_forward import padded_attention
from dialog_trainer.training.checkpoint import collect_tensors, find_damage, load_optimizer, write_checkpoint
from dialog_trainer.training.saved_state import read_state

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
PATH = "weights/step-00000001"


@pytest.fixture
def checkpoint(tiny_model, tokenizer, tmp_path):
    """A checkpoint of step 1, in `tmp_path/PATH`."""
    make_saver(tiny_model, tokenizer, tmp_path)(1)
    return tmp_path / PATH


def test_checkpoint_is_a_hugging_face_directory(checkpoint, tiny_model, tokenizer):
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint)
    for (name, found), (_, expected) in zip(loaded.named_parameters(), tiny_model.named_parameters(), strict=True):
        assert torch.equal(found, expected), name
    assert loaded.config._attn_implementation == "sdpa"
    assert len(AutoTokenizer.from_pretrained(checkpoint)) == len(tokenizer)
    assert {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()} == FILES


def test_manifest_names_every_other_file(checkpoint):
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert set(files) == FILES - {"manifest.json"}
    assert all((checkpoint / name).stat().st_size == size for name, (size, _) in files.items())


def test_no_file_is_a_pickle(checkpoint):
    for path in (path for path in checkpoint.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not zipfile.is_zipfile(path), path
        # Pickle protocols 2 to 5 start with their number, older ones end with a full stop.
        assert not content.startswith(b"\x80"), path
        assert not content.endswith(b"."), path


def manifest(files):
    return lambda folder: (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


def name_also(name):
    def damage(folder):
        files = json.loads((folder / "manifest.json").read_text())["files"]
        manifest(files | {name: [1, "0" * 64]})(folder)

    return damage


def link_away(name):
    def damage(folder):
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return damage


DAMAGE = {
    "one bit": (
        lambda folder: flip(folder / "model.safetensors"),
        "model.safetensors and manifest.json differ",
    ),
    "cut": (
        lambda folder: (folder / "trainer/optimizer.safetensors").write_bytes(b""),
        "optimizer.safetensors has 0 bytes instead of",
    ),
    "missing": (lambda folder: (folder / "trainer/state.json").unlink(), "state.json: No such file or directory"),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[1, 2]"), "manifest.json is no manifest"),
    "deep": (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "manifest.json is no manifest"),
    "a size of text": (manifest({"config.json": ["1", "0" * 64]}), "manifest.json is no manifest: files.config.json"),
    "names nothing": (manifest({}), "does not name trainer/optimizer.safetensors, trainer/state.json"),
    "huge": (lambda folder: os.truncate(folder / "manifest.json", 2**30), "manifest.json: is larger than"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: No such file or directory"),
    "above": (name_also("../../secret"), "is no path below its folder"),
    "absolute": (name_also("/etc/hostname"), "/etc: No such file or directory"),
    "a NUL": (name_also("a\0b"), "embedded null"),
    "a link": (link_away("config.json"), "config.json: is a link, and inside a run or cache none is followed"),
    "a folder of links": (link_away("trainer"), "trainer: is a link, and inside a run or cache none is followed"),
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "names another model"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found_and_named(checkpoint, tmp_path, damage, reason):
    assert find_damage(tmp_path, PATH) is None
    damage(checkpoint)
    assert reason in find_damage(tmp_path, PATH)


STATES = {
    "no JSON": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "no text": b"\xff\xfe",
    "a text for a step": json.dumps(state_of(1) | {"step": "1"}),
    "a float for a step": json.dumps(state_of(1) | {"step": 1.5}),
    "below 0": json.dumps(state_of(1) | {"tokens_seen": -1}),
    "5,000 digits": json.dumps(state_of(1)).replace('"step": 1', '"step": ' + "9" * 5000, 1),
    "no best": json.dumps(state_of(1) | {"best": None}),
    "a best of lists": json.dumps(state_of(1) | {"best": {"loss": []}}),
    "no digest": json.dumps({key: value for key, value in state_of(1).items() if key != "digest"}),
    "versions of numbers": json.dumps(state_of(1) | {"versions": {"torch": 2}}),
    "a scale of texts": json.dumps(state_of(1) | {"loss_scale": {"scale": "x"}}),
}


@pytest.mark.parametrize("content", STATES.values(), ids=STATES)
def test_a_state_of_other_types_is_named(checkpoint, tmp_path, content):
    assert read_state(tmp_path, PATH).tokens_seen == 10
    path = checkpoint / "trainer/state.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        CheckpointError, match=r"trainer/state.json (is no state of a checkpoint: \S+|has no digest: another version)"
    ):
        read_state(tmp_path, PATH)


def scalar(tensors):
    return {key: torch.zeros(1) if key.startswith("exp_avg/") else value for key, value in tensors.items()}


def renamed(tensors):
    return {key.replace("/transformer.", "/other."): value for key, value in tensors.items()}


def double(tensors):
    return {key: value.double() for key, value in tensors.items()}


def incomplete(tensors):
    return {key: value for key, value in tensors.items() if not key.startswith("exp_avg_sq")}


def without_slot(tensors):
    return {key.replace("/", "."): value for key, value in tensors.items()}


def larger(tensors):
    return {key: torch.zeros(*value.shape, 2) for key, value in tensors.items()}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("change", [scalar, renamed, double, incomplete, without_slot, larger])
def test_optimizer_state_that_does_not_fit_never_reaches_a_kernel(checkpoint, tiny_model, change, fused):
    path = checkpoint / "trainer/optimizer.safetensors"
    save_file(change(load_file(path)), path)
    optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=0.1, fused=fused)
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors (does not fit|holds state of)"):
        load_optimizer(checkpoint, tiny_model, optimizer)
    assert not optimizer.state


def test_a_file_that_is_no_safetensors_is_named(checkpoint, tiny_model):
    (checkpoint / "trainer/optimizer.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors cannot be read"):
        load_optimizer(checkpoint, tiny_model, torch.optim.AdamW(tiny_model.parameters()))


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
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    tensors = collect_tensors(tiny_model, optimizer)
    write_checkpoint(directory, model=tiny_model, tokenizer=tokenizer, tensors=tensors, state=state_of(2))
    again = kind(tiny_model.parameters(), lr=0.5, **settings)
    load_optimizer(directory, tiny_model, again)
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

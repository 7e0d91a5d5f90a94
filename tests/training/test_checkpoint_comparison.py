"""Where two checkpoints first differ: a tensor and its index, or a key."""

import json
import shutil
import struct

import pytest
import torch
from helpers.checkpoints import make_saver
from safetensors.torch import load_file, save_file

from dialog_trainer.training.checkpoint_comparison import (
    compare_checkpoints,
    find_tensor_difference,
    find_value_difference,
)

ONE_BIT_MORE = struct.unpack("<f", struct.pack("<I", 0x3F800001))[0]  # than 1.0


@pytest.mark.parametrize(
    ("expected", "found", "difference"),
    [
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}, None),
        ({"a": 1}, {"a": 1.0}, "a: 1.0 instead of 1"),
        ({"a": 0.0}, {"a": -0.0}, "a: -0.0 instead of 0.0"),
        ({"a": 0.1 + 0.2}, {"a": 0.3}, "a: 0.3 instead of 0.30000000000000004"),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "a, b, 1: 3 instead of 2"),
        ({"a": [1]}, {"a": [1, 2]}, "a: [1, 2] instead of [1]"),
        ({"a": 1, "b": 2}, {"a": 1}, "b: is missing"),
        ({"a": 1}, {"a": 1, "b": 2}, "b: is new"),
        ({"b": 1, "a": 1}, {"a": 2, "b": 2}, "b: 2 instead of 1"),
    ],
)
def test_the_first_value_that_differs(expected, found, difference):
    assert find_value_difference(expected, found) == difference


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        ({"w": torch.ones(2, 3), "v": torch.tensor(float("nan"))}, None),
        ({"w": torch.tensor([[1.0, 1, 1], [1, ONE_BIT_MORE, 1]]), "v": torch.tensor(float("nan"))},
         f"w[1, 1]: {ONE_BIT_MORE!r} instead of 1.0 (1 of 6 values differ)"),
        ({"w": torch.ones(2, 3), "v": torch.tensor(2.0)}, "v[]: 2.0 instead of nan (1 of 1 values differ)"),
        ({"w": torch.ones(3, 2), "v": torch.tensor(float("nan"))}, "w: is float32 [3, 2] instead of float32 [2, 3]"),
        ({"w": torch.ones(2, 3).bfloat16(), "v": torch.tensor(float("nan"))}, "w: is bfloat16 [2, 3] instead of float32 [2, 3]"),
        ({"v": torch.tensor(float("nan"))}, "w is missing in {found}"),
        ({"a": torch.ones(1), "w": torch.ones(2, 3), "v": torch.tensor(float("nan"))}, "a is missing in {expected}"),
    ],
)  # fmt: skip
def test_the_first_value_of_a_tensor_whose_bits_differ(found, difference, tmp_path):
    paths = {"expected": tmp_path / "expected", "found": tmp_path / "found"}
    save_file({"w": torch.ones(2, 3), "v": torch.tensor(float("nan"))}, paths["expected"])
    save_file(found, paths["found"])
    assert find_tensor_difference(paths["expected"], paths["found"]) == (difference and difference.format(**paths))


def flip_a_bit(path):
    tensors = load_file(path)
    name = max(name for name, tensor in tensors.items() if tensor.dim() == 2)
    tensors[name].view(torch.int32).view(-1)[3] ^= 1
    save_file(tensors, path, metadata={"format": "pt"})


def set_keys(**values):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("name", "change", "start"),
    [
        ("trainer/state.json", set_keys(attempt=3, run_id="other"), None),
        ("trainer/state.json", set_keys(config={"seed": 0, "name": "b", "mode": "resume"}), None),
        ("trainer/state.json", set_keys(config={"seed": 1, "name": "a", "mode": "train"}), "config, seed: 1 instead of 0"),
        ("trainer/state.json", set_keys(tokens_seen=11), "tokens_seen: 11 instead of 10"),
        ("model.safetensors", flip_a_bit, "transformer.wte.weight[0, 3]: "),
        ("trainer/optimizer.safetensors", flip_a_bit, "exp_avg_sq/transformer.wte.weight[0, 3]: "),
        ("config.json", set_keys(n_head=3), "n_head: 3 instead of 2"),
        ("tokenizer_config.json", lambda path: path.write_text(path.read_text() + "\n"), "the bytes differ"),
        ("chat_template.jinja", lambda path: path.unlink(), "is missing in "),
    ],
)  # fmt: skip
def test_each_file_of_a_checkpoint_is_compared(name, change, start, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "other")
    assert compare_checkpoints(checkpoint, tmp_path / "other") is None
    change(tmp_path / "other" / name)
    difference = compare_checkpoints(checkpoint, tmp_path / "other")
    assert difference is None if start is None else difference.startswith(f"{name}: {start}")


@pytest.fixture
def checkpoint(tiny_model, tokenizer, tmp_path):
    make_saver(tiny_model, tokenizer, tmp_path)(1)
    folder = tmp_path / "weights/last"
    set_keys(config={"seed": 0, "name": "a", "mode": "train"})(folder / "trainer/state.json")
    return folder

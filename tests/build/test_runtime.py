"""On what a step is computed: device, arithmetic, compiled or not."""

import os
import sys

import pytest
import torch
from torch._inductor.exc import CppCompileError

from dialog_trainer import __main__
from dialog_trainer.build import runtime
from dialog_trainer.build.runtime import (
    build_autocast,
    configure_torch,
    resolve_compile,
    select_device,
    warm_up_compile,
)
from dialog_trainer.config import machine as machine_needs
from dialog_trainer.config.machine import missing_compiler
from dialog_trainer.data.packing import dummy_batch
from dialog_trainer.errors import ConfigError
from dialog_trainer.model.compile import compile_blocks
from dialog_trainer.model.loss import PackedLoss
from tests.helpers.configs import compose_config


@pytest.fixture
def config(jsonl_folder):
    return compose_config("data=dailydialog", f"data.path='{jsonl_folder}'", "model=gpt2_tiny", "precision=fp32")


@pytest.fixture
def machine(monkeypatch):
    """`machine(cuda=2, mps=False)` pretends to have two CUDA devices and no MPS."""

    def pretend(cuda: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("wanted", "cuda", "mps", "expected"),
    [
        ("auto", 0, False, "cpu"), ("auto", 0, True, "mps"), ("auto", 1, True, "cuda:0"), ("auto", 2, False, "cuda:0"),
        ("cpu", 2, True, "cpu"), ("mps", 1, True, "mps"), ("cuda", 1, False, "cuda:0"), ([1], 2, False, "cuda:1"),
    ],
)  # fmt: skip
def test_the_device_that_is_there(config, machine, wanted, cuda, mps, expected):
    machine(cuda, mps)
    assert select_device(config.replace({"device": wanted})) == torch.device(expected)


@pytest.mark.parametrize(
    ("wanted", "cuda", "reason"),
    [
        ("cuda", 0, "device=cuda: there is no CUDA device; use device=auto or device=cpu"),
        ([0], 0, "device=[0]: there is no CUDA device; use device=auto or device=cpu"),
        ([2], 2, "device=[2]: there are 2 CUDA devices; use device=auto or device=cpu"),
        ("mps", 2, "device=mps: this machine has none; use device=auto or device=cpu"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_what_to_use(config, machine, wanted, cuda, reason):
    machine(cuda, mps=False)
    with pytest.raises(ConfigError) as caught:
        select_device(config.replace({"device": wanted}))
    assert caught.value.errors == [reason]


def test_the_arithmetic_of_the_forward_pass_is_the_precision(config):
    a = torch.ones(2, 2)
    with build_autocast(config, torch.device("cpu"))():
        assert (a @ a).dtype == torch.float32
    with build_autocast(config.replace({"precision": "bf16"}), torch.device("cpu"))():
        assert (a @ a).dtype == torch.bfloat16


@pytest.mark.parametrize(("asked", "cudnn_searches"), [(True, False), (False, True)])
def test_deterministic_kernels_are_asked_for(asked, cudnn_searches, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", asked)
    configure_torch(asked)
    assert torch.are_deterministic_algorithms_enabled() is asked
    assert torch.backends.cudnn.benchmark is cudnn_searches
    assert not torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize(("capability", "refused"), [((7, 5), True), ((8, 0), False), ((9, 0), False)])
def test_a_precision_that_the_gpu_lacks_is_refused(config, machine, monkeypatch, capability, refused):
    machine(1, mps=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda on: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda on: "Old GPU")
    asked = config.replace({"precision": "bf16"})
    if refused:
        with pytest.raises(
            ConfigError, match="precision=bf16: Old GPU has no arithmetic for it; use precision=fp16 or"
        ):
            select_device(asked)
    else:
        assert select_device(asked) == torch.device("cuda:0")
    assert select_device(asked.replace({"precision": "fp16"})) == torch.device("cuda:0")


@pytest.fixture
def blocks(monkeypatch):
    """The blocks that were told to compile."""
    told = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, dynamic: told.append((type(block).__name__, dynamic)))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "set")
    return told


@pytest.mark.parametrize(
    ("asked", "changes", "pays", "lack", "compiles", "said"),
    [
        (True, {}, False, None, True, []),
        (False, {}, True, None, False, []),
        ("auto", {}, True, None, True, []),
        ("auto", {}, False, None, False, []),
        ("auto", {}, False, "no g++", False, []),
        ("auto", {}, True, "no g++", False, ["note: not compiled, which would be faster: no g++"]),
        ("auto", {"activation_checkpointing": True}, True, None, False, []),
        ("auto", {"activation_checkpointing": True}, True, "no g++", False, []),
    ],
)  # fmt: skip
def test_what_compile_asks_for_is_decided(
    config, tiny_model, blocks, monkeypatch, asked, changes, pays, lack, compiles, said
):
    monkeypatch.setattr(runtime, "compile_is_faster", lambda on: pays)
    monkeypatch.setattr(runtime, "missing_compiler", lambda: lack)
    lines = []
    on = torch.device("cpu")
    found = resolve_compile(config.replace({"compile": asked} | changes), tiny_model, on, lines.append)
    assert found.compile == (asked if compiles else False)
    assert blocks == ([("GPT2Block", True)] if compiles else [])
    assert lines == said


def test_a_model_that_cannot_be_compiled_is_named(config, tiny_model, blocks, monkeypatch):
    monkeypatch.setattr(runtime, "compile_is_faster", lambda on: True)
    tiny_model.set_attn_implementation("sdpa")
    on = torch.device("cpu")
    with pytest.raises(ConfigError, match="compile=true: GPT2LMHeadModel takes no packed attention; use compile=false"):
        resolve_compile(config.replace({"compile": True}), tiny_model, on, print)
    auto = config.replace({"compile": "auto"})
    found = resolve_compile(auto, tiny_model, on, print)
    assert found.compile is False
    assert blocks == []


@pytest.fixture
def broken_compiler(tiny_model, monkeypatch):
    """A compiler that fails at the first pass of a compiled block; the passes are noted."""
    passes = []
    monkeypatch.setattr(runtime, "_sample_batch", lambda training, on: dummy_batch(on))

    def failing(self, dynamic):
        def called(*arguments, **named):
            passes.append(type(self).__name__)
            raise CppCompileError(["g++", "kernel.cpp"], "kernel.cpp: No space left on device")

        self._compiled_call_impl = called

    monkeypatch.setattr(torch.nn.Module, "compile", failing)
    return passes


def warmed_up(config, model, lines):
    """With `compile` as asked, whether or not it would pay."""
    compile_blocks(model)
    return warm_up_compile(config, PackedLoss(model), model, None, torch.device("cpu"), lines.append)


FAILURE = "torch could not: kernel.cpp: No space left on device"


def test_a_compiler_that_fails_is_named(config, tiny_model, broken_compiler):
    with pytest.raises(ConfigError) as caught:
        warmed_up(config.replace({"compile": True}), tiny_model, [])
    assert caught.value.errors == [f"compile=true: {FAILURE}; use compile=false"]
    assert broken_compiler == ["GPT2Block"]


def test_auto_goes_on_without_a_compiler_that_fails(config, tiny_model, broken_compiler):
    lines = []
    found = warmed_up(config.replace({"compile": "auto"}), tiny_model, lines)
    assert found == config.replace({"compile": False})
    assert lines[1:] == [f"note: not compiled, which would be faster: {FAILURE}"]
    assert broken_compiler == ["GPT2Block"]
    PackedLoss(tiny_model)(dummy_batch(torch.device("cpu")))
    assert broken_compiler == ["GPT2Block"]
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_auto_of_several_processes_ends_with_a_compiler_that_fails(config, tiny_model, broken_compiler, monkeypatch):
    monkeypatch.setattr(runtime.collectives, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match=f"compile=auto: {FAILURE}; use compile=false"):
        warmed_up(config.replace({"compile": "auto"}), tiny_model, [])


@pytest.mark.parametrize("there", [None, "no g++"])
def test_what_one_machine_of_a_group_lacks_counts_for_all(config, tiny_model, blocks, monkeypatch, there):
    monkeypatch.setattr(runtime.collectives, "all_gather_objects", lambda own: [own, there])
    monkeypatch.setattr(runtime, "missing_compiler", lambda: None)
    asked = config.replace({"compile": True})
    if there:
        with pytest.raises(ConfigError, match="compile=true: no g"):
            resolve_compile(asked, tiny_model, torch.device("cpu"), print)
    else:
        assert resolve_compile(asked, tiny_model, torch.device("cpu"), print).compile is True
    assert len(blocks) == (0 if there else 1)


def test_what_compiling_lacks_is_named_with_its_package(monkeypatch, tmp_path):
    assert missing_compiler() is None
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    assert missing_compiler() == (f"there is no C++ compiler {tmp_path}/no-compiler; install the package no-compiler")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert missing_compiler() == "there is no C++ compiler g++; install the package g++"
    monkeypatch.undo()
    monkeypatch.setattr(machine_needs.sysconfig, "get_path", lambda name: str(tmp_path))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert missing_compiler() == f"there is no Python.h; install the package python{version}-dev"


def test_the_command_fixes_the_hashes_of_its_interpreter(monkeypatch):
    begun = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: begun.append((path, arguments)))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "dialog_trainer", "steps=3"])
    monkeypatch.setattr("dialog_trainer.cli.main.entry", lambda: begun.append("entry"))
    monkeypatch.setattr("signal.pthread_sigmask", lambda how, signals: None)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    __main__.entry()
    assert begun[0] == (sys.executable, [sys.executable, "-m", "dialog_trainer", "steps=3"])
    assert os.environ["PYTHONHASHSEED"] == "0"
    for value, begins in (("", 2), ("random", 2), ("0", 1), ("7", 1)):
        begun.clear()
        monkeypatch.setenv("PYTHONHASHSEED", value)
        __main__.entry()
        assert len(begun) == begins, value

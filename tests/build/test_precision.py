"""precision=auto: what a machine can, one measurement as a veto, and a value for all ranks."""

import pytest
import torch
import yaml

from dialog_trainer.build import precision
from dialog_trainer.build.precision import MIN_SPEEDUP, Machine, measure_speedup, native_bf16, read_machine
from tests.helpers.configs import compose_config

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("machine", "unit"),
    [
        (Machine("cpu", "EPYC", frozenset({"avx2", "avx512_bf16"})), "AVX512_BF16"),
        (Machine("cpu", "Xeon", frozenset({"amx_bf16", "avx512_bf16"})), "AMX_BF16"),
        (Machine("cpu", "EPYC", frozenset({"avx2", "avx512_f", "bf16"})), None),
        (Machine("cuda", "A100", capability=(8, 0)), "A100"),
        (Machine("cuda", "H200", capability=(9, 0)), "H200"),
        (Machine("cuda", "T4", capability=(7, 5)), None),
        (Machine("mps", "Apple GPU", mps_autocast=True), "Apple GPU"),
        (Machine("mps", "Apple GPU"), None),
    ],
)
def test_what_a_machine_can(machine, unit):
    assert native_bf16(machine) == unit


@pytest.mark.parametrize(("mkldnn", "found"), [(True, {"avx512_bf16"}), (False, set())])
def test_a_cpu_needs_the_library_too(monkeypatch, mkldnn, found):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": False, "cpu_name": "X"}
    )
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: mkldnn)
    assert read_machine(CPU) == Machine("cpu", "X", frozenset(found))


def test_this_machine_and_a_gpu_are_read(monkeypatch):
    assert read_machine(CPU).name
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older torch
    assert read_machine(CPU) == Machine("cpu", "CPU")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert read_machine(torch.device("cuda:0")) == Machine("cuda", "H200", capability=(9, 0))


@pytest.fixture
def resolve(tiny_model, tmp_path, monkeypatch):
    """`resolve(asked, unit, speedup)` gives the value, what was said, and how often was measured."""

    def decide(asked: str, unit: str | None, speedup: float) -> tuple[str, list[str], int]:
        lines, measured = [], []
        monkeypatch.setattr(precision, "native_bf16", lambda machine: unit)
        monkeypatch.setattr(precision, "measure_speedup", lambda device, width: measured.append(width) or speedup)
        config = compose_config("model=gpt2_tiny", f"data.cache_dir='{tmp_path}'", f"precision={asked}")
        found = precision.resolve_precision(config, tiny_model, CPU, lines.append)
        return found.precision, lines, len(measured)

    return decide


@pytest.mark.parametrize(
    ("asked", "unit", "speedup", "chosen", "said"),
    [
        ("auto", "AVX512_BF16", 2.13, "bf16",
         "precision: bf16 (AVX512_BF16; layers of this width are 2.1 times as fast in bf16 as in fp32 here)"),
        ("auto", "AVX512_BF16", MIN_SPEEDUP - 0.1, "fp32",
         "precision: fp32 (AVX512_BF16; layers of this width are only 1.1 times as fast in bf16 as in fp32 here)"),
        ("auto", None, 0, "fp32", "precision: fp32 (this processor has no native bf16)"),
        ("bf16", None, 0, "bf16",
         "note: precision=bf16: this processor has no native bf16: slower than fp32, with the same rounding as elsewhere"),
        ("bf16", "AVX512_BF16", 0, "bf16", None),
        ("fp16", None, 0, "fp16", None),
        ("fp32", "AVX512_BF16", 9, "fp32", None),
    ],
)  # fmt: skip
def test_the_precision_of_a_run(resolve, asked, unit, speedup, chosen, said):
    measured = asked == "auto" and unit is not None
    assert resolve(asked, unit, speedup) == (chosen, [said] if said else [], int(measured))


def test_one_measurement_decides_for_all_runs_of_a_machine(resolve, monkeypatch):
    assert resolve("auto", "AVX512_BF16", 2.0)[::2] == ("bf16", 1)
    assert resolve("auto", "AVX512_BF16", 1.0)[::2] == ("bf16", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert resolve("auto", "AVX512_BF16", 1.0)[::2] == ("fp32", 1)


def test_all_ranks_follow_the_one_that_has_none(resolve, monkeypatch):
    monkeypatch.setattr(precision.collectives, "all_gather_objects", lambda own: [own, None])
    assert resolve("auto", "AVX512_BF16", 2.0)[0] == "fp32"
    monkeypatch.setattr(precision.collectives, "all_gather_objects", lambda own: [own, own])
    monkeypatch.setattr(precision.collectives, "broadcast_from_rank0", lambda make: 3.0)
    assert resolve("auto", "AVX512_BF16", 1.0)[::2] == ("bf16", 0)


def test_speed_is_measured_without_a_trace(monkeypatch):
    monkeypatch.setitem(precision.TOKENS, "cpu", 8)
    before = torch.get_rng_state()
    assert 0 < measure_speedup(CPU, width=16) < 1000
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_saves_the_choice_and_a_resume_keeps_it(dialog_trainer, tiny_options, tmp_path, monkeypatch):
    run = tmp_path / "runs/run"
    with monkeypatch.context() as stand_in:
        stand_in.setattr(precision, "native_bf16", lambda machine: "AVX512_BF16")
        stand_in.setattr(precision, "measure_speedup", lambda device, width: 2.0)
        code, output, _ = dialog_trainer(*tiny_options, "precision=auto", "steps=2")
    assert code == 0
    assert "precision: bf16 (AVX512_BF16; layers of this width are 2.0 times as fast" in output
    assert yaml.safe_load((run / "args.yaml").read_text())["precision"] == "bf16"
    monkeypatch.setattr(precision, "native_bf16", lambda machine: None)
    code, output, _ = dialog_trainer("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last", "steps=3")
    assert code == 0
    assert "note: precision=bf16: this processor has no native bf16" in output
    assert yaml.safe_load((run / "args.yaml").read_text())["precision"] == "bf16"

"""Model FLOPs utilization, and the peaks of GPUs."""

import pytest
import torch

from dialog_trainer.training.mfu import compute_mfu, device_peak_flops, peak_flops_of


@pytest.mark.parametrize(
    ("name", "precision", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 80GB HBM3", "fp32", 67e12),
        ("NVIDIA A100-SXM4-40GB", "fp16", 312e12),
        ("Tesla T4", "fp16", 65e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", None),
        ("NVIDIA GeForce RTX 4090", "bf16", 165e12),
        ("Quadro K2000", "fp32", None),
    ],
)
def test_peak_is_found_by_the_name_of_a_gpu(name, precision, flops, monkeypatch):
    assert peak_flops_of(name, precision) == flops
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert device_peak_flops(torch.device("cuda:0"), precision) == flops
    assert device_peak_flops(torch.device("cpu"), precision) is None


def test_mfu_counts_six_flops_per_parameter_and_token():
    assert compute_mfu(124_000_000, 500_000, 989e12) == pytest.approx(0.376137, abs=1e-6)

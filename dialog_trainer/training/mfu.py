"""Model FLOPs utilization (MFU; Chowdhery et al. 2022, "PaLM", appendix B): achieved over peak FLOPs of the GPU."""

from __future__ import annotations

import torch

# Peak dense FLOPs per second in (bf16 or fp16, fp32 without TF32) of the largest variant of a GPU. From data sheets.
_PEAK_FLOPS = {
    "T4": (65e12, 8.1e12),
    "V100": (125e12, 15.7e12),
    "A100": (312e12, 19.5e12),
    "L4": (121e12, 30.3e12),
    "H100": (989e12, 67e12),
    "H200": (989e12, 67e12),
    "RTX 3090": (71e12, 35.6e12),
    "RTX 4090": (165e12, 82.6e12),
}


def peak_flops_of(name: str, precision: str) -> float | None:
    """Peak FLOPs per second of the GPU that torch calls `name`; None if the table does not have it."""
    spaced_name = f" {name.replace('-', ' ')} "
    peaks = next((peaks for gpu, peaks in _PEAK_FLOPS.items() if f" {gpu} " in spaced_name), None)
    return peaks and peaks[precision == "fp32"]


def device_peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak FLOPs per second of a device; None for a CPU or an unknown GPU."""
    return peak_flops_of(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def compute_mfu(parameters: int, tokens_per_second: float, peak_flops: float) -> float:
    """MFU in [0, 1], with 6 FLOPs per parameter and token.

    Leaves out attention (a few percent) and counts the projection to the vocabulary for every token, trained or not.
    """
    return 6 * parameters * tokens_per_second / peak_flops

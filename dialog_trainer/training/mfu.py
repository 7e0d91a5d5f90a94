"""Model FLOPs utilization (MFU; Chowdhery et al. 2022, "PaLM", appendix B): of what a GPU does at best, the share that the
model needs."""

from __future__ import annotations

import torch

# Dense operations a second in bf16 or fp16, and in fp32 without TF32, of the largest GPU of a name (data sheets).
_PEAKS = {
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
    """Operations a second of the GPU that torch calls `name`; None if it is not in the table."""
    words = f" {name.replace('-', ' ')} "
    found = [both for gpu, both in _PEAKS.items() if f" {gpu} " in words]
    return found[0][precision == "fp32"] if found else None


def device_peak_flops(on: torch.device, precision: str) -> float | None:
    """Operations a second of a device; None on a CPU, or where it is not known."""
    return peak_flops_of(torch.cuda.get_device_name(on), precision) if on.type == "cuda" else None


def compute_mfu(parameters: int, tokens_per_second: float, peak_operations: float) -> float:
    """With 6 operations for each parameter and token, as is usual: attention, a few percent more, is left out, and the
    projection to the vocabulary counted for all tokens, trained or not."""
    return 6 * parameters * tokens_per_second / peak_operations

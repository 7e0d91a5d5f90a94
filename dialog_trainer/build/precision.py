"""precision=auto: bf16 where the device computes it natively and the layers of the model are clearly faster in it.

Decided once a run and saved as the value that was chosen. The measurement is kept in the cache: another run of such a
model on this machine decides alike, whatever else the machine is doing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import gelu, linear
from transformers import PreTrainedModel

from dialog_trainer.build.data import resolve_cache_dir
from dialog_trainer.config.schema import Config
from dialog_trainer.data.cache import open_entry
from dialog_trainer.distributed import collectives
from dialog_trainer.files import cache_key, read_bounded, write_atomically
from dialog_trainer.types import Say

# So many times as fast bf16 must be, at least: below that its rounding buys nothing.
MIN_SPEEDUP = 1.2
# Measured passes of each precision, and the tokens of one.
ROUNDS, TOKENS = 5, {"cpu": 512, "cuda": 8192, "mps": 2048}
_FILE, _MAX_BYTES = "speedup.json", 1000


@dataclass(frozen=True, slots=True)
class Machine:
    """What of a device says whether it computes in bf16: of a CPU its instructions, of a CUDA device its compute
    capability, of Apple's GPU whether torch has a bf16 autocast there."""

    device_type: str
    name: str
    instructions: frozenset[str] = frozenset()
    capability: tuple[int, int] = (0, 0)
    mps_autocast: bool = False


def read_machine(device: torch.device) -> Machine:
    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        return Machine("cuda", name, capability=capability)
    if device.type == "mps":
        return Machine("mps", "Apple GPU", mps_autocast=torch.backends.mps.is_macos_or_newer(14, 0))
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that is supported
    found: Mapping[str, object] = capabilities() if capabilities else {}
    instructions = frozenset(name for name, there in found.items() if there is True)
    # Without oneDNN torch multiplies bf16 matrices in a plain loop.
    usable = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return Machine("cpu", str(found.get("cpu_name", "CPU")), instructions if usable else frozenset())


def native_bf16(machine: Machine) -> str | None:
    """What computes in bf16 there, for a message; None where nothing does.

    AVX512_BF16 and AMX on a CPU, Ampere (compute capability 8.0) or later on CUDA.
    """
    if machine.device_type == "cpu":
        units = [unit for unit in ("AMX_BF16", "AVX512_BF16") if unit.lower() in machine.instructions]
        return units[0] if units else None
    has_it = machine.capability >= (8, 0) if machine.device_type == "cuda" else machine.mps_autocast
    return machine.name if has_it else None


def resolve_precision(config: Config, model: PreTrainedModel, device: torch.device, say: Say) -> Config:
    """The configuration with a value for `precision=auto`, the same on all ranks.

    Says what was chosen and why, and where a typed or saved bf16 is not native.
    """
    machine = read_machine(device)
    unit = native_bf16(machine)
    everywhere = None not in collectives.all_gather_objects(unit)
    here = "this processor" if device.type == "cpu" else machine.name
    if config.precision == "bf16" and not everywhere:
        say(f"note: precision=bf16: {here} has no native bf16: slower than fp32, with the same rounding as elsewhere")
    if config.precision != "auto":
        return config
    if not everywhere:
        precision, why = "fp32", f"{here} has no native bf16"
    else:
        width = int(model.get_input_embeddings().embedding_dim)  # type: ignore[arg-type]  # an Embedding
        speedup = collectives.broadcast_from_rank0(lambda: _recall_speedup(config, machine, device, width, say))
        precision = "bf16" if speedup >= MIN_SPEEDUP else "fp32"
        only = "" if precision == "bf16" else "only "
        why = f"{unit}; layers of this width are {only}{speedup:.1f} times as fast in bf16 as in fp32 here"
    say(f"precision: {precision} ({why})")
    return config.replace({"precision": precision})


def _recall_speedup(config: Config, machine: Machine, device: torch.device, width: int, say: Say) -> float:
    """The kept measurement of such layers on this machine, or a new one, which is kept."""

    def write(folder: Path) -> None:
        write_atomically(folder, _FILE, json.dumps(measure_speedup(device, width)))

    units = sorted(unit for unit in machine.instructions if "bf16" in unit)
    key = cache_key(machine.name, units, device.type, torch.__version__, torch.get_num_threads(), width)
    folder = open_entry(resolve_cache_dir(config), f"precision-{key}", write, say)
    return float(json.loads(read_bounded(folder, _FILE, _MAX_BYTES)))


def measure_speedup(device: torch.device, width: int) -> float:
    """How many times as fast a forward and backward pass of an MLP block is under bf16 autocast as in fp32.

    The ratio of the median times of `ROUNDS` passes, interleaved; casts of the fp32 weights are part of a pass.
    """
    shapes = ((TOKENS[device.type], width), (4 * width, width), (width, 4 * width))
    values, up, down = (torch.full(shape, 0.01, device=device, requires_grad=True) for shape in shapes)
    contexts = [
        partial(torch.autocast, device.type, dtype=torch.bfloat16, enabled=enabled) for enabled in (False, True)
    ]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for context, times in zip(contexts, seconds, strict=True):
            start = time.perf_counter()
            with context():
                output = linear(gelu(linear(values, up), approximate="tanh"), down).sum()
            (gradient,) = torch.autograd.grad(output, values)
            float(gradient[0, 0])  # waits for a GPU
            times.append(time.perf_counter() - start)
    plain, cast = (median(times[1:]) for times in seconds)  # the first one prepares kernels
    return plain / cast

"""Counts quantities that predict the speed on a GPU and compares them with `benchmarks/expected.json`: `make bench-quick`.

    python benchmarks/quick.py            # exit code 1, with a line for each count that got worse
    python benchmarks/quick.py --write    # save the counts of today as the expected ones

Times on a CPU say little about a GPU; these counts do not depend on the machine. They are from training steps of a run
through the command line (model=gpt2_tiny, synthetic dialogues, only the assistant's turns, fp32, dropout 0.1, eager):

- flops_per_token: floating-point operations of forward and backward pass for each real token (`FlopCounterMode`).
- dispatched_ops: operations that torch dispatches in a step, without views: about the number of kernel launches.
- ops_outside_attention: the operations outside attention, without dropout. (The CPU path computes attention sequence by
  sequence, CUDA in one operation a layer and pass.) `docs/performance.md` predicts a step time from them.
- host_syncs: where the host would wait for a GPU; the target is at most 1. Counted are reading a value of a tensor (`item`),
  copying a float32 tensor to float64, and operations whose result size depends on values (`nonzero`, a boolean index); each
  is reported with its place. Not counted are the host's own sums (float64), what is computed from them, and the step
  counter of torch's optimizers.
- padded_share: proportion of the positions in the blocks that are padding; the target is 0.
- distinct_shapes: distinct numbers of positions in the forward passes of 20 steps, eager; each may recompile.
- compiled_graphs: graphs that `compile=true` compiles in 20 steps; not counted, with a message, if compiling fails.
- saved_bytes_per_token: peak of the bytes saved for the backward pass, without weights.
- largest_tensor_bytes_per_token: the largest tensor that an operation creates; logits of all tokens would show here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from peers import ours
from peers.contender import environment
from peers.material import SEED, synthetic_dialogues
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop, sdpa_flop

from dialog_trainer.training.loop import StepReport

EXPECTED = Path(__file__).resolve().parent / "expected.json"
# Relative growth above which a count is "worse". A count of 0 must stay 0.
TOLERANCES = {
    "flops_per_token": 0.01, "dispatched_ops": 0.02, "ops_outside_attention": 0.02, "host_syncs": 0.0,
    "padded_share": 0.0, "distinct_shapes": 0.0, "compiled_graphs": 0.0, "saved_bytes_per_token": 0.02,
    "largest_tensor_bytes_per_token": 0.02,
}  # fmt: skip
DIALOGUES, BATCH_SIZE, SHAPE_STEPS = 240, 24, 20
aten = torch.ops.aten
SIZE_BY_VALUE = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the file of expected counts")
    parser.add_argument("--expected", type=Path, default=EXPECTED, help=f"that file, default: {EXPECTED.name}")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON without comparing them")
    parser.add_argument("--override", nargs="*", default=[], help="options of the run, for experiments")
    parser.add_argument("--compiled-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    if arguments.compiled_only:
        print(json.dumps(compiled_graphs()))
        return
    found = counts(arguments.override)
    if arguments.json:
        print(json.dumps(found))
        return
    graphs = count_graphs_in_subprocess()
    if isinstance(graphs, int):
        found["compiled_graphs"] = graphs
    else:
        print(f"compiled_graphs: not counted: {graphs}")
    versions = {"torch": torch.__version__.split("+")[0]}
    if arguments.write:
        arguments.expected.write_text(
            json.dumps({"versions": versions, "counts": found}, indent=2) + "\n", encoding="utf-8"
        )
        print(f"wrote {arguments.expected.name}: {found}")
        return
    if not arguments.expected.exists():
        raise SystemExit(f"{arguments.expected.name} does not exist; create it with --write; counted: {found}")
    sys.exit(compare(found, json.loads(arguments.expected.read_text(encoding="utf-8")), versions))


def compare(found: dict[str, float], expected: dict[str, Any], versions: dict[str, str]) -> int:
    """Prints all counts; returns 1 if one is worse than expected by more than its tolerance, else 0."""
    if expected["versions"] != versions:
        print(f"note: expected with {expected['versions']}, counted with {versions}")
    worse = []
    for name, value in found.items():
        before = expected["counts"].get(name)
        verdict = "new" if before is None else "as expected"
        if before is not None and value > before * (1 + TOLERANCES[name]) + 1e-9:
            verdict = f"WORSE than {before:,.6g}"
            worse.append(f"{name}: {value:,.6g}, expected {before:,.6g} (tolerance {TOLERANCES[name]:.0%})")
        elif before is not None and value < before * (1 - TOLERANCES[name]) - 1e-9:
            verdict = f"better than {before:,.6g}; save it with --write"
        print(f"{name:<32}{value:>14,.6g}  {verdict}")
    for name in sorted(set(expected["counts"]) - set(found)):
        print(f"{name:<32}{'-':>14}  not counted here")
    for line in worse:
        print(f"worse: {line}", file=sys.stderr)
    return 1 if worse else 0


def counts(overrides: list[str]) -> dict[str, float]:
    """Each kind of count in a step of its own after two warm-up steps; the shapes in the steps after that."""
    flops, operations, saved, shapes = flop_counter(), Operations(), Saved(), Shapes()
    tokens = counted({2: flops, 3: operations, 4: saved, 5: shapes}, 5 + SHAPE_STEPS, overrides)
    outside = Operations()
    counted({2: outside}, 3, ["model.dropout=0", *overrides])
    print(f"host_syncs, one by one: {', '.join(operations.syncs) or 'none'}", file=sys.stderr)
    return {
        "flops_per_token": round(flops.get_total_flops() / tokens[2], 1),
        "dispatched_ops": operations.kernels,
        "ops_outside_attention": outside.kernels - outside.attention,
        "host_syncs": len(operations.syncs),
        "padded_share": round(1 - sum(tokens[5:]) / sum(shapes.positions), 6),
        "distinct_shapes": len(set(shapes.positions)),
        "saved_bytes_per_token": round(saved.peak / tokens[4], 1),
        "largest_tensor_bytes_per_token": round(operations.largest / tokens[3], 1),
    }


def counted(kinds: dict[int, Any], steps: int, overrides: list[str]) -> list[int]:
    """Runs with the counter `kinds[n]` active in step n, the last one in all steps from n on; returns the tokens of each step."""
    tokens: list[int] = []
    inside = ExitStack()

    def before_step(step: int) -> None:
        if step in kinds or step == steps:
            inside.close()
        if step in kinds:
            inside.enter_context(kinds[step])

    with tempfile.TemporaryDirectory() as name:
        options = [*run_options(Path(name), steps), "compile=false", *overrides]
        latest = {text.split("=", 1)[0]: text for text in options}
        quiet_run(list(latest.values()), before_step, lambda report: tokens.append(report.tokens))
    return tokens


def run_options(folder: Path, steps: int, model: Path | None = None) -> list[str]:
    """Options of a run of the toy model, or of `model`, with one minimal validation at its end."""
    for name, count, seed in (("train", DIALOGUES, SEED), ("validation", 2, SEED + 1)):
        lengths = (4, 6, 9, 14)  # words a turn, so that sequences differ in length
        parts = [list(synthetic_dialogues(count, seed + words, words)) for words in lengths]
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(count):
                file.write(json.dumps({"turns": parts[index % len(lengths)][index]}) + "\n")
    chosen = ["model=gpt2", f"model.pretrained_model='{model.resolve()}'"] if model else ["model=gpt2_tiny"]
    return [
        *chosen, "model.dropout=0.1", "data=jsonl", f"data.train_data_path='{folder / 'train.jsonl'}'",
        f"data.validation_data_path='{folder / 'validation.jsonl'}'", f"data.cache_dir='{folder / 'cache'}'",
        "data.workers=1", "train_user_turn_mask_step=0", "seed=0", f"batch_size={BATCH_SIZE}", "device=cpu",
        f"steps={steps}", f"validate_every_n_steps={ours.NEVER}", "metrics.max_dialogues=1", "metrics.max_new_tokens=2",
        f"project='{folder / 'runs'}'", "name=quick", "precision=fp32",
    ]  # fmt: skip


def quiet_run(options: list[str], before_step: Callable[[int], None], track: Callable[[StepReport], None]) -> None:
    """Runs with standard output redirected to standard error; its last validation is not counted."""
    out = os.dup(1)
    sys.stdout.flush()
    os.dup2(2, 1)
    try:
        code = ours.run(options, before_step, track)
    finally:
        sys.stdout.flush()
        os.dup2(out, 1)
        os.close(out)
    if code:
        raise SystemExit(f"the run failed with exit code {code}")


def flop_counter() -> FlopCounterMode:
    """Torch's counter, with formulas for attention on a CPU, which it lacks."""
    counter = FlopCounterMode(display=False)
    counter.flop_registry |= {
        aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
    }
    return counter


class Operations(TorchDispatchMode):
    """Counts operations, and host synchronizations with their places."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.attention = self.largest = 0
        self.syncs: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        inputs = [one for one in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        on_host = any(map(_is_host, inputs))
        result = func(*args, **(kwargs or {}))
        outputs = [one for one in torch.utils._pytree.tree_leaves(result) if isinstance(one, torch.Tensor)]
        for one in outputs:
            if on_host:
                one.is_host = True  # type: ignore[attr-defined]  # an attribute of our own
        if inputs and not on_host:
            crosses = any(map(_is_host, outputs))  # float32 of the device -> float64 of the host
            by_value = name in SIZE_BY_VALUE or (name == "index" and _has_boolean(args[1]))
            if crosses or by_value or name == "_local_scalar_dense":
                self._add_sync(name)
        if not on_host and not func.is_view and name not in ("detach", "_local_scalar_dense", "lift_fresh"):
            self.kernels += 1
            self.attention += "scaled_dot_product" in name
            self.largest = max([self.largest, *(one.numel() * one.element_size() for one in outputs)])
        return result

    def _add_sync(self, name: str) -> None:
        """Adds the synchronization with its place. Torch's optimizers keep their step counter on the host: not counted."""
        frames = [frame for frame in traceback.extract_stack() if "/_dynamo/" not in frame.filename][:-2]
        if "/torch/optim/" in frames[-1].filename and name == "_local_scalar_dense":
            return
        own = next((frame for frame in reversed(frames) if "/dialog_trainer/" in frame.filename), frames[-1])
        if own.name == "_is_known_to_be_one":  # called on the CPU only
            return
        self.syncs.append(f"{name} at {'/'.join(Path(own.filename).parts[-2:])}:{own.lineno}")


def _is_host(tensor: torch.Tensor) -> bool:
    """Whether the tensor is on the host: float64 is used only for the host's sums, and their results are marked."""
    return tensor.dtype == torch.float64 or getattr(tensor, "is_host", False)


def _has_boolean(indices: Any) -> bool:
    return any(isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in indices)


class Saved:
    """Peak of the bytes saved for the backward pass; memory that several tensors share counts once."""

    def __init__(self) -> None:
        self.peak = self._now = 0
        self._users: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def __enter__(self) -> Saved:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: torch.Tensor) -> _Kept:
        return _Kept(self, tensor)

    def add(self, key: int, size: int, sign: int) -> None:
        users = self._users.get(key, 0) + sign
        if users == (1 if sign > 0 else 0):
            self._now += sign * size
            self.peak = max(self.peak, self._now)
        self._users[key] = users


class _Kept:
    def __init__(self, owner: Saved, tensor: torch.Tensor):
        self.tensor, self.owner = tensor, owner
        storage = tensor.untyped_storage()
        # A weight, or a view of one, takes no extra memory.
        weight = isinstance(tensor, torch.nn.Parameter) or isinstance(tensor._base, torch.nn.Parameter)
        self.key, self.size = storage.data_ptr(), 0 if weight else storage.nbytes()
        owner.add(self.key, self.size, 1)

    def __del__(self) -> None:
        self.owner.add(self.key, self.size, -1)


class Shapes:
    """The number of positions of each forward pass through the model's first block."""

    def __init__(self) -> None:
        self.positions: list[int] = []

    def __enter__(self) -> Shapes:
        self._first: torch.nn.Module | None = None
        self._handle = torch.nn.modules.module.register_module_forward_pre_hook(self._see)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    def _see(self, module: torch.nn.Module, inputs: tuple) -> None:
        if self._first is None and "Block" in type(module).__name__:
            self._first = module
        if module is self._first:
            self.positions.append(inputs[0].shape[:-1].numel())


def compiled_graphs() -> int:
    """Number of graphs that torch compiles in the steps of a run."""
    from torch._dynamo.utils import counters

    with tempfile.TemporaryDirectory() as name:
        options = [*run_options(Path(name), SHAPE_STEPS), "compile=true"]
        at_last_step: list[int] = []

        def before_step(step: int) -> None:
            if step == SHAPE_STEPS:
                at_last_step.append(counters["stats"]["unique_graphs"])

        quiet_run(options, before_step, lambda report: None)
    return at_last_step[0]


def count_graphs_in_subprocess() -> int | str:
    """`compiled_graphs` in a subprocess, which compiling changes; or the reason why it failed."""
    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run(
            [sys.executable, __file__, "--compiled-only"], capture_output=True, text=True, check=False,
            env=environment(Path(name), os.cpu_count() or 1),
        )  # fmt: skip
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode:
        return next((line for line in reversed(lines) if "compile" in line), lines[-1] if lines else "no message")
    return int(lines[-1])


if __name__ == "__main__":
    main()

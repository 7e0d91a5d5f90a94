"""Profiles where the time of a training step goes: the plainest correct step, the package's step, and that compiled.

    python benchmarks/step_time.py                 # 124 M, batches of 24 dialogues: about five minutes on two idle cores
    python benchmarks/step_time.py --write-docs    # table and docs/step_time.png into docs/performance.md

All three are runs through the command line on the same dialogues, weights and mask, each in a process of its own; every
step has the same dialogues. `before` is a run without the package's replacements: transformers' activation and dropout,
torch's attention sequence by sequence, logits of the trained tokens and `cross_entropy`, torch's clipping, AdamW weight by
weight. After warm-up steps torch's profiler records a few; the table shows the one with the median wall time. The self time
of each operation belongs to one of `PARTS`: by the name of the operation if that is enough, else by the module or function
that called it, or that called the forward operation of its backward pass. So the parts add up to the step; the last part
is the rest, including waiting.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from peers import machine, material, ours, page
from peers.contender import environment
from peers.job import Job
from torch.profiler import ProfilerActivity, profile, record_function

from dialog_trainer.build import model as build_model
from dialog_trainer.build import optimization
from dialog_trainer.cli.launch import READ_BY_TORCH
from dialog_trainer.distributed import parallel
from dialog_trainer.model import loss, packed_forward
from dialog_trainer.reporting.plotting import render_figure

STEP = "a whole step"
PRODUCTS, ATTENTION, ACTIVATION, DROPOUT, VOCABULARY, NORM, OPTIMIZER, CLIPPING, FUSED, REST = PARTS = (
    "matrix products of layers and head", "attention", "activation", "dropout: noise and masks",
    "loss over the vocabulary", "layer norm and residual", "optimizer", "clipping",
    "compiled: activation, dropout, norm in one", "everything else",
)  # fmt: skip
COLORS = (
    "#b8c4d0", "#1f5fa8", "#d9701e", "#c23b4b", "#1b7f6b", "#8a63b0", "#6b8e23", "#caa53d", "#4fa3c7", "#777777",
)  # fmt: skip
OF_MODULE = {
    "GPT2Model": REST, "GPT2Block": NORM, "LayerNorm": NORM, "GPT2Attention": ATTENTION, "Conv1D": PRODUCTS,
    "Linear": PRODUCTS, "NewGELUActivation": ACTIVATION, "TanhGelu": ACTIVATION, "Dropout": DROPOUT,
    "BitDropout": DROPOUT,
}  # fmt: skip
OF_EVENT = {
    **dict.fromkeys(("aten::mm", "aten::addmm", "aten::addmm_"), PRODUCTS),
    **dict.fromkeys(("aten::bernoulli_", "aten::random_", "aten::ge", "dialog_trainer::dropout_keep_mask"), DROPOUT),
    **dict.fromkeys(("_DropoutAttention", "_DropoutAttentionBackward"), ATTENTION),
    **{part: part for part in PARTS},
}
TITLES = {"before": "before", "after": "after", "compiled": "after, compiled"}
DIALOGUES, MAX_LEN, WARM_UP = 24, 128, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="124M", choices=list(material.SIZES))
    parser.add_argument("--steps", type=int, default=5, help="profiled steps")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write-docs", action="store_true", help="table and figure into docs/")
    parser.add_argument("--figure", type=Path, help="another file for the figure")
    parser.add_argument("--job", type=Job.from_json, help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        profile_run(arguments.job, arguments.kind, arguments.steps)
    out = machine.describe(
        arguments.threads, {"batch_size": DIALOGUES, "max_len": MAX_LEN, "size": arguments.size, "precision": "fp32"}
    )
    print(machine.format_line(out), flush=True)
    with tempfile.TemporaryDirectory(prefix="dialog-trainer-bench-") as name:
        folder = Path(name) / "work"
        data = write_material(folder, material.SIZES[arguments.size])
        found = {kind: seconds for kind in TITLES if (seconds := seen(kind, folder, arguments))}
    tokens = next(iter(found.values()))["tokens"]
    shown = table(found)
    print(shown)
    for path in filter(None, [arguments.figure, page.DOCS / "step_time.png" if arguments.write_docs else None]):
        draw(found, f"A step of {arguments.size}: {DIALOGUES} dialogues, {tokens:,} tokens", path)
    if arguments.write_docs:
        about = f"{data}, {tokens:,} tokens a step; the median of {arguments.steps} steps."
        picture = "![Seconds of a step by operation](step_time.png)"
        page.replace_part("step-time", f"{machine.format_line(out)} {about}\n\n{shown}\n\n{picture}")


def write_material(folder: Path, size: material.Size) -> str:
    """Writes the model of the other benchmarks, and as many of their dialogues as one batch has."""
    made = material.write(folder, size, steps=5, batch_size=DIALOGUES, max_len=MAX_LEN, rounds=1)
    path = folder / "train.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:DIALOGUES]), encoding="utf-8")
    return made.data


def job_of(kind: str, folder: Path, threads: int) -> Job:
    return Job(
        folder=str(folder), max_len=MAX_LEN, dropout=0.1, precision="fp32", lora=False, batch_size=DIALOGUES, lr=1e-4,
        weight_decay=0.01, max_grad_norm=1.0, threads=threads, compile=kind == "compiled", overrides=("device=cpu",),
    )  # fmt: skip


def seen(kind: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The median step of a run of this kind: `parts` in seconds, `tokens`, and the `range` of all steps in seconds.

    Prints the reason and returns None if the run fails.
    """
    command = [sys.executable, __file__, "--kind", kind, "--job", job_of(kind, folder, arguments.threads).to_json()]
    done = subprocess.run(
        [*command, "--steps", str(arguments.steps)], capture_output=True, text=True, check=False,
        env=environment(folder / f"compiled-{kind}", arguments.threads) | READ_BY_TORCH,
    )  # fmt: skip
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        print(f"{TITLES[kind]}: cannot run here: {lines[-1] if lines else 'no message'}", flush=True)
        return None
    steps = sorted(json.loads((folder / f"{kind}.json").read_text(encoding="utf-8")), key=_total)
    print(f"{TITLES[kind]}: {', '.join(f'{_total(step):.2f}' for step in steps)} s", flush=True)
    return steps[len(steps) // 2] | {"range": (_total(steps[0]), _total(steps[-1]))}


def _total(step: dict[str, Any]) -> float:
    return sum(step["parts"].values())


def profile_run(job: Job, kind: str, count: int) -> None:
    """Trains in this process, writes the seconds of each step to `<kind>.json`, and ends the process."""
    spans: list[record_function] = []
    steps: list[dict[str, Any]] = []
    if kind == "before":
        _use_plain_step()
    if job.compile:
        torch._inductor.config.cpp.enable_kernel_profile = True
    _mark_functions(bool(job.compile))
    looking = profile(activities=[ProfilerActivity.CPU])

    def before_step(step: int) -> None:
        nonlocal looking
        if len(steps) == count:
            (Path(job.folder) / f"{kind}.json").write_text(json.dumps(steps), encoding="utf-8")
            os._exit(0)
        if step >= WARM_UP:
            looking = profile(activities=[ProfilerActivity.CPU])
            looking.start()
            spans.append(record_function(STEP))
            spans[-1].__enter__()

    def track(report: Any) -> None:
        if spans:
            spans.pop().__exit__(None, None, None)
            looking.stop()
            steps.append({"parts": parts_of(looking.events()), "tokens": report.tokens})

    sys.exit(ours.run(ours.overrides_of(job), before_step, track) or 1)


def _use_plain_step() -> None:
    """Replaces the package's faster operations by those of torch and transformers."""
    from transformers import AttentionInterface

    from dialog_trainer.distributed import parallel

    use_packed_attention = build_model.use_packed_attention

    def packed_without_plain_head(model: Any, longest: int = 8) -> bool:
        if not use_packed_attention(model, longest):
            raise SystemExit("the plain attention does not give the plain model's logits")
        model.has_plain_head = False
        return True

    def clip(parameters, max_norm):
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def adamw(config, model):
        weight_decay = config.optim.arguments["weight_decay"]
        return torch.optim.AdamW(model.parameters(), lr=config.optim.lr0, weight_decay=weight_decay)

    build_model.fuse_activations = lambda model: None
    build_model.use_packed_attention = packed_without_plain_head
    optimization.build_optimizer = adamw
    parallel.clip_grad_norm = clip
    AttentionInterface.register(packed_forward.ATTENTION, _attention)


def _attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, *, packing, **_):
    outputs = [
        torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling)
        for q, k, v in zip(*(tensor.split(packing.lengths, dim=2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _mark_functions(compiled: bool) -> None:
    """Marks the function and module of each operation for the profiler, except inside compiled blocks."""
    own_loss_sum, own_clip = loss.compute_loss, parallel.clip_grad_norm
    marked: set[torch.nn.Module] = set()

    def loss_sum(model, batch):
        if not marked:
            blocks = [one for one in model.modules() if type(one).__name__ in model._no_split_modules]
            marked.update(inner for block in blocks for inner in block.modules() if compiled)
            for module in set(model.modules()) - marked:
                _mark_module(module)
            marked.add(model)
        with record_function(VOCABULARY):
            return own_loss_sum(model, batch)

    def clip(parameters, max_norm):
        with record_function(CLIPPING):
            return own_clip(parameters, max_norm)

    loss.compute_loss, parallel.clip_grad_norm = loss_sum, clip


def _mark_module(module: torch.nn.Module) -> None:
    part = OF_MODULE.get(type(module).__name__)
    if part is None:
        return
    spans = []

    def begin(*_) -> None:
        spans.append(record_function(part))
        spans[-1].__enter__()

    module.register_forward_pre_hook(begin)
    module.register_forward_hook(lambda *_: spans.pop().__exit__(None, None, None))


def parts_of(events: list[Any]) -> dict[str, float]:
    """Seconds of each of `PARTS` in the step of `events`: the self times of the operations of its thread."""
    step = next(event for event in events if event.name == STEP)
    own = [event for event in events if event.thread == step.thread and _within(event, step)]
    # A backward pass has the sequence number of the last forward operation with that number.
    forward = {event.sequence_nr: event for event in own if event.sequence_nr >= 0 and not _is_backward(event)}
    parts = dict.fromkeys(PARTS, 0.0)
    for event in own:
        parts[_part(event, forward)] += event.self_cpu_time_total / 1e6
    return parts


def _within(event: Any, step: Any) -> bool:
    return event.time_range.start >= step.time_range.start and event.time_range.end <= step.time_range.end


def _is_backward(event: Any) -> bool:
    return event.scope == 1 or event.name.startswith("autograd::engine")


def _part(event: Any, forward: dict[int, Any]) -> str:
    """The part of the event, or of the innermost event around it that has one."""
    while event is not None:
        if event.name in OF_EVENT:
            return OF_EVENT[event.name]
        if event.name.startswith("Optimizer."):
            return OPTIMIZER
        if "cpp_fused" in event.name:
            return FUSED
        event = (forward.get(event.sequence_nr) if _is_backward(event) else None) or event.cpu_parent
    return REST


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [f"| seconds of a step | {' | '.join(TITLES[kind] for kind in found)} |", "|---|" + "---|" * len(found)]
    for part in PARTS:
        seconds = [step["parts"][part] for step in found.values()]
        if any(one >= 0.005 for one in seconds):
            lines.append(f"| {part} | {' | '.join(f'{one:.2f}' for one in seconds)} |")
    totals = [_total(step) for step in found.values()]
    lines.append(f"| **together** | {' | '.join(f'**{one:.2f}**' for one in totals)} |")
    ranges = ["{:.2f} to {:.2f}".format(*step["range"]) for step in found.values()]
    lines.append(f"| all profiled steps | {' | '.join(ranges)} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, Any]], title: str, path: Path) -> None:
    """Draws a stacked bar for each run."""
    figure = Figure(figsize=(9, 1.6 + 0.6 * len(found)), layout="constrained")
    axes = figure.subplots()
    longest = max(map(_total, found.values()))
    names = [TITLES[kind] for kind in found]
    left = [0.0] * len(found)
    for part, color in zip(PARTS, COLORS, strict=True):
        seconds = [step["parts"][part] for step in found.values()]
        if max(seconds) < 0.005:
            continue
        axes.barh(names, seconds, left=left, color=color, label=part, height=0.65)
        for place, one in enumerate(seconds):
            if one > 0.035 * longest:
                axes.text(left[place] + one / 2, place, f"{one:.1f}", ha="center", va="center", fontsize=8)
        left = [before + one for before, one in zip(left, seconds, strict=True)]
    for place, total in enumerate(left):
        axes.text(total, place, f"  {total:.1f} s", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * longest)
    axes.set_xlabel("seconds")
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    path.write_bytes(render_figure(figure))


if __name__ == "__main__":
    main()

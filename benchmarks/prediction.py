"""Predicts the step time on a GPU from counts of training steps on a CPU, and writes it into docs/performance.md.

    python benchmarks/prediction.py

All blocks but the last are alike, so each adds the same number of operations and launches: two depths at the width and the
vocabulary of 124 M give the exact numbers of any depth. In the same way each chunk in which the trained tokens are projected to the
vocabulary adds launches.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import quick
import random_gpt2
from peers import material, page

from dialog_trainer.model.kernels.linear_cross_entropy import chunk_rows
from dialog_trainer.training.loop import StepReport

# NVIDIA H100 SXM: dense bf16 peak of its data sheet; the utilization and the time of a launch are assumed.
PEAK, ASSUMED_SHARE, LAUNCH_SECONDS, TOKENS = 989e12, 0.5, 5e-6, 16_384
SMALL, LARGE = 8, 24  # dialogues in a batch: trained tokens for one chunk, and for several


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of one step without dropout; `launches` are those outside attention."""

    flops: int
    launches: int
    tokens: int
    trained: int

    @property
    def chunks(self) -> int:
        return _chunks(self.trained, "cpu")


def main() -> None:
    page.replace_part("prediction", describe_prediction())


def describe_prediction() -> str:
    """A paragraph with the prediction, the counts it is based on, and the assumptions."""
    layers = material.SIZES["124M"].layers
    with tempfile.TemporaryDirectory() as name:
        one, two, longer = (
            _counts(Path(name), depth, dialogues) for depth, dialogues in ((1, SMALL), (2, SMALL), (1, LARGE))
        )
    per_token = (one.flops + (layers - 1) * (two.flops - one.flops)) / one.tokens
    a_layer, a_chunk = two.launches - one.launches, (longer.launches - one.launches) / (longer.chunks - one.chunks)
    chunks = _chunks(TOKENS * one.trained / one.tokens, "cuda")
    outside = round(one.launches + (layers - 1) * a_layer + (chunks - one.chunks) * a_chunk)
    arithmetic = per_token * TOKENS / (PEAK * ASSUMED_SHARE)
    launching = (outside + 2 * layers) * LAUNCH_SECONDS
    seconds = arithmetic + launching
    return (
        f"A prediction, not a measurement. Counted in bf16 steps, casts included, of {one.tokens:,} tokens ({SMALL} dialogues, "
        f"{one.trained / one.tokens:.0%} of them trained) at the width and vocabulary of 124 M with one and with two "
        f"blocks, and extrapolated to {layers} (all but the last are alike): {per_token / 1e6:,.0f} million operations a token. "
        f"Launches outside attention: {one.launches} with one block, {a_layer} for each further one, {a_chunk:.0f} for "
        f"each further chunk of the vocabulary's projection ({chunks} of them): {outside:,}, and {2 * layers} of attention. "
        f"For a step of one micro-batch of {TOKENS:,} tokens on an H100 SXM (bf16, dense peak "
        f"{PEAK / 1e12:,.0f} TFLOP/s), with an assumed {ASSUMED_SHARE:.0%} of the peak inside kernels and "
        f"{LAUNCH_SECONDS * 1e6:.0f} µs a launch: {arithmetic * 1e3:.1f} ms + {launching * 1e3:.1f} ms = "
        f"{seconds * 1e3:.1f} ms, {TOKENS / seconds:,.0f} tokens/s, {per_token * TOKENS / seconds / PEAK:.0%} of the peak."
    )


def _chunks(trained: float, kind: str) -> int:
    return math.ceil(trained / chunk_rows(random_gpt2.GPT2_VOCABULARY_SIZE, kind))


def _counts(folder: Path, depth: int, dialogues: int) -> Counts:
    """Counts of the second step of a run: the first step creates the optimizer's state."""
    size = material.SIZES["124M"]
    model, work = folder / f"model-{depth}", folder / f"run-{depth}-{dialogues}"
    work.mkdir()
    if not model.exists():
        random_gpt2.write(model, layers=depth, heads=size.heads, width=size.width)
    flops, operations, inside = quick.flop_counter(), quick.Operations(), ExitStack()
    reports: list[StepReport] = []

    def before_step(step: int) -> None:
        inside.close()
        if step == 1:
            inside.enter_context(flops)
            inside.enter_context(operations)

    options = quick.run_options(work, 2, model)
    kept = [text for text in options if not text.startswith(("model.dropout=", "batch_size="))]
    own = ["model.dropout=0", f"batch_size={dialogues}", f"micro_batch_tokens={TOKENS}", "precision=bf16"]
    quick.quiet_run([*kept, *own], before_step, reports.append)
    return Counts(
        flops.get_total_flops(), operations.kernels - operations.attention, reports[1].tokens,
        reports[1].trained_tokens(),
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""The floor: only the matrix products of a step, a lower bound of its time.

These are the four linear layers of each block for the real tokens, and the projection to the vocabulary for the trained
tokens; for each the product of the forward pass and the two of the backward pass, into preallocated memory.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peers import material
from peers.gate import Gate


class Products:
    """The three products of `y = x @ w`, for any number of rows up to `rows`."""

    def __init__(self, rows: int, inner: int, outer: int, buffers: dict[int, torch.Tensor], like: torch.Tensor):
        self.w = torch.randn(inner, outer, dtype=like.dtype, device=like.device) * 0.02
        self.gradient_of_w = torch.empty_like(self.w)
        for width in (inner, outer):
            if width not in buffers:
                buffers[width] = torch.randn(2, rows, width, dtype=like.dtype, device=like.device)
        self.x, self.y = buffers[inner], buffers[outer]

    def run(self, rows: int) -> None:
        x, y = self.x[0, :rows], self.y[0, :rows]
        torch.mm(x, self.w, out=self.y[1, :rows])
        torch.mm(y, self.w.t(), out=self.x[1, :rows])
        torch.mm(x.t(), y, out=self.gradient_of_w)


def main() -> None:
    gate = Gate()
    job = gate.job
    made = material.read(Path(job.folder))
    like = torch.empty(
        0,
        dtype=torch.bfloat16 if job.precision == "bf16" else torch.float32,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    batches = [
        (
            sum(len(made.ids[index]) for index in batch),
            sum(label != material.IGNORED for index in batch for label in made.labels[index]),
        )
        for batch in made.batches(job.order)
    ]
    tokens, trained, width = max(n for n, _ in batches), max(m for _, m in batches), made.width
    buffers: dict[int, torch.Tensor] = {}
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    blocks = [Products(tokens, *shape, buffers, like) for _ in range(made.layers) for shape in shapes]
    head = Products(trained, width, made.entries, {}, like)
    head.w, head.gradient_of_w = (
        head.w.t().contiguous().t(),
        head.gradient_of_w.t().contiguous().t(),
    )  # as a model has it
    for n, m in batches:
        gate.begin_step()
        for products in blocks:
            products.run(n)
        head.run(m)
        gate.note(None)
    raise SystemExit("the products reached the end of the data")


if __name__ == "__main__":
    main()

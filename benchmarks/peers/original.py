"""The original program's step: rows padded to `max_len`, logits of all positions, torch's Adam, no clipping, always fp32.

Its loader tokenizes each dialogue in every epoch; this step does not include that.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peers import material
from peers.gate import Gate
from peers.hf_trainer import model_of, tokenizer_of


def main() -> None:
    gate = Gate()
    job = gate.job
    if job.precision != "fp32":
        raise SystemExit("the original always computes in fp32")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made = material.read(Path(job.folder))
    pad = tokenizer_of(job).pad_token_id
    ids = _rows(made.ids, made.max_len, pad)
    labels = _rows(made.labels, made.max_len, pad).where(_rows(made.labels, made.max_len, pad) >= 0, pad)
    model = model_of(job).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=job.lr)
    criterion = torch.nn.CrossEntropyLoss(ignore_index=pad)
    for batch in made.batches(job.order):
        gate.begin_step()
        x, y = ids[batch].to(device), labels[batch].to(device)
        optimizer.zero_grad()
        output = model(input_ids=x, attention_mask=torch.where(x == pad, 0, 1)).logits
        loss = criterion(output[:, :-1, :].reshape(-1, output.size(-1)), y[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        gate.note(loss.item())
    raise SystemExit("the loop reached the end of its data")


def _rows(sequences: list[list[int]], max_len: int, pad: int) -> torch.Tensor:
    return torch.tensor([[*sequence, *[pad] * (max_len - len(sequence))] for sequence in sequences])


if __name__ == "__main__":
    main()

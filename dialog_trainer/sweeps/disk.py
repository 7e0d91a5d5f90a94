"""What the runs of a sweep take on the disk: as measured on one that is done, else from the sizes of a model from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dialog_trainer.config.schema import Config
from dialog_trainer.sweeps.record import JobRecord

# Weights in fp32 and the two moments of Adam, in bytes a parameter.
_BYTES = 12
# Besides the newest checkpoints: the two best ones.
_BEST = 2


def estimate_bytes(folder: Path, left: Sequence[JobRecord], done: Sequence[JobRecord], config: Config) -> int | None:
    """Bytes that the jobs that are `left` will take; None where that is not known before the first one."""
    sizes = [measure_bytes(folder / job.name) for job in done[:1]]
    if sizes:
        return max(sizes) * len(left)
    parameters = count_parameters(config)
    return None if parameters is None else len(left) * _BYTES * parameters * (config.keep_checkpoints + _BEST)


def measure_bytes(run: Path) -> int:
    """Of a folder; a file that has several names in it counts once."""
    found = {(file.stat().st_dev, file.stat().st_ino): file.stat().st_size for file in run.rglob("*") if file.is_file()}
    return sum(found.values())


def count_parameters(config: Config) -> int | None:
    """Of a GPT-2 from scratch, whose output layer is its embedding; None for a pretrained model.

    Embeddings V·d + P·d; each block 12·d² + 13·d (attention 4·d² + 4·d, MLP 8·d² + 5·d, two layer norms 4·d); the last norm 2·d.
    """
    model = config.model
    if model.pretrained_model is not None or None in (model.layers, model.width, model.positions, model.vocab_size):
        return None
    layers, width = model.layers or 0, model.width or 0
    positions, vocabulary = model.positions or 0, model.vocab_size or 0
    return (vocabulary + positions) * width + layers * (12 * width**2 + 13 * width) + 2 * width

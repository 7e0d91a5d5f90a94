"""Weights in pickles, `pytorch_model.bin` and the original program's `.pt`: read by torch's safe loader alone.

The original (ljm565/multi-turn-chatbot-GPT2) saves `{"model": state of its module, "log_data": scores}`. The module holds
a GPT-2 of transformers as `model`, with rows for `[CLS]`, `[SEP]` and `[PAD]` in the order in which they are added here.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, GPT2Config, PreTrainedConfig

from dialog_trainer.errors import ModelError
from dialog_trainer.files import why_unreadable

GPT2_HEAD_WIDTH = 64  # in each size of GPT-2
# The scores in a checkpoint of the original are numbers of numpy 1; without code of their own.
_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
]


def is_original_checkpoint(name: str) -> bool:
    """Whether a name is that of a checkpoint of the original program."""
    return name.lower().endswith(".pt")


def check_pickled_weights(path: Path) -> None:
    """Raises `ModelError` for what is no file, or would unpack to more bytes than it has."""
    problem = why_unreadable(path)
    if problem:
        raise ModelError(f"{path}: {problem}")
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ModelError(f"{path} is damaged: {error}") from None
        if unpacked > path.stat().st_size:  # torch.save does not compress
            raise ModelError(f"{path} is compressed, and would unpack to {unpacked:,} bytes: torch saves no such file")


def read_original_checkpoint(path: Path) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """The config and the weights, by their names in transformers, of a checkpoint of the original program.

    The config is `config.json` next to it, else that of the GPT-2 with these shapes. Raises `ModelError`.
    """
    check_pickled_weights(path)
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and zip have many kinds
        reason = str(error).strip().split("\n")[0][:300]
        raise ModelError(f"{path} is not read by torch's safe loader ({type(error).__name__}: {reason})") from None
    state = saved.get("model") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(
            f"{path} is no checkpoint of the original program, which holds its weights under 'model'; for other weights pass "
            "a folder that `save_pretrained` of transformers wrote"
        )
    weights = {str(name).removeprefix("module.").removeprefix("model."): value for name, value in state.items()}
    return _config_of(path, weights), weights


def _config_of(path: Path, weights: dict[str, torch.Tensor]) -> PreTrainedConfig:
    embeddings, positions = weights.get("transformer.wte.weight"), weights.get("transformer.wpe.weight")
    if embeddings is None or positions is None or embeddings.ndim != 2 or positions.ndim != 2:
        raise ModelError(f"{path} has no weights of a GPT-2 (transformer.wte.weight, transformer.wpe.weight)")
    rows, width = embeddings.shape
    if (path.parent / "config.json").is_file():
        found: Any = AutoConfig.from_pretrained(str(path.parent), trust_remote_code=False)
        found.vocab_size = rows
        return found  # type: ignore[no-any-return]  # AutoConfig is untyped
    layers = sum(name.startswith("transformer.h.") and name.endswith(".ln_1.weight") for name in weights)
    return GPT2Config(
        bos_token_id=None,  # those of GPT-2 may be beyond these rows
        eos_token_id=None,
        vocab_size=rows,
        n_positions=len(positions),
        n_embd=width,
        n_layer=layers,
        n_head=max(1, width // GPT2_HEAD_WIDTH),
    )

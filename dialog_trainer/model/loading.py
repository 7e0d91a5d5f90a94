"""Loads a pretrained model or builds one from scratch."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
)

from dialog_trainer.data.gguf_header import check_gguf, is_gguf, parse_gguf_once
from dialog_trainer.data.tokenizer import DialogueTokenizer, loading_error
from dialog_trainer.errors import ModelError
from dialog_trainer.model.fitting import build_from_config, build_without_weights, fit_to_tokenizer
from dialog_trainer.model.pickled_weights import (
    check_pickled_weights,
    is_original_checkpoint,
    read_original_checkpoint,
)

MAX_CONFIG_BYTES = 2**20
# A model may have fewer tensors than layers or experts, but not many fewer.
MANY_LAYERS = 1024
# The smallest type of GGUF has one and a half bits for each weight.
GGUF_WEIGHTS_PER_BYTE = 6
# Words in the names of numbers of modules (`attention_types` of GPT-Neo holds some).
_COUNTS = ("layer", "expert", "types")


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the weights of a model come from.

    `name` and `options` are what `from_pretrained` of transformers gets; or `config` and `weights` are there already.
    `max_weights` is how many the files can hold at most; 0 where they are not on this machine.
    """

    name: str
    max_weights: int
    options: Mapping[str, Any] = field(default_factory=dict)
    config: PreTrainedConfig | None = None
    weights: Mapping[str, torch.Tensor] | None = None

    def load_config(self) -> PreTrainedConfig:
        gguf = {key: value for key, value in self.options.items() if key == "gguf_file"}
        return self.config or AutoConfig.from_pretrained(self.name, trust_remote_code=False, **gguf)

    def load_model(self, config: PreTrainedConfig) -> tuple[PreTrainedModel, list[str]]:
        """The fp32 model, and the names of its weights that are in no file."""
        if self.weights is not None:
            model = build_from_config(config)
            return model, sorted(model.load_state_dict(self.weights, strict=False).missing_keys)
        with contextlib.redirect_stderr(io.StringIO()):  # of a GGUF file transformers always draws a bar
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.name,
                config=config,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
                **self.options,
            )
        return loaded[0], sorted(loaded[1]["missing_keys"])


def load_pretrained(
    name_or_path: str,
    tokenizer: DialogueTokenizer,
    dropout: float | None,
    check: Callable[[int], None] | None = None,
    *,
    pickles: bool = False,
) -> PreTrainedModel:
    """The fp32 model of a hub id, a folder, a GGUF file or a checkpoint of the original program (`.pt`), with embeddings
    for the tokens that were added to the tokenizer.

    `dropout` replaces each dropout probability of the model's config (None keeps them). `check` gets the number of
    weights before they are loaded, and raises where they do not fit. With `pickles` a folder may hold
    `pytorch_model.bin` in place of safetensors. Raises `ModelError`.
    """
    with parse_gguf_once() if is_gguf(name_or_path) else contextlib.nullcontext():
        model = _load(name_or_path, dropout, check, pickles)
    fit_to_tokenizer(model, tokenizer, has_new_rows=is_original_checkpoint(name_or_path))
    return model


def _load(
    name_or_path: str, dropout: float | None, check: Callable[[int], None] | None, pickles: bool
) -> PreTrainedModel:
    source = _find_weights(name_or_path, pickles)
    try:
        config = source.load_config()
        weights = _count_weights(config)
    except Exception as error:  # a config may hold anything
        raise loading_error(name_or_path, error) from None
    if source.max_weights and weights > source.max_weights:
        raise ModelError(
            f"{name_or_path}: its config asks for {weights:,} weights, and the files hold at most {source.max_weights:,}"
        )
    if dropout is not None:
        _set_dropout(config, dropout)
    if check:  # outside of `try`: its errors are not those of the model
        check(weights)
    try:
        model, missing = source.load_model(config)
    except Exception as error:  # the hub's client raises many kinds; all mean that there is no model
        raise loading_error(name_or_path, error) from None
    if hasattr(model, "peft_config"):
        raise ModelError(f"{name_or_path} is an adapter, not a model: pass the folder of the model merged with it")
    if missing:
        raise ModelError(
            f"{name_or_path} has no weights for {missing[0]} (and {len(missing) - 1} others): they would be random"
        )
    if is_gguf(name_or_path):
        _forget_quantization(model)
    return model


def describe_conversion(name_or_path: str) -> str | None:
    """What loading changes about the weights of a model, as a line; None for those of safetensors."""
    if is_gguf(name_or_path):
        return f"{name_or_path} is read as fp32, which it is trained and saved in (safetensors), not as a GGUF file"
    if is_original_checkpoint(name_or_path):
        return f"{name_or_path} is read as a checkpoint of the original program: its weights alone, no optimizer"
    if Path(name_or_path).is_dir() and not any(Path(name_or_path).glob("*.safetensors")):
        return f"the weights in {name_or_path} are a pickle, read by torch's safe loader; the run saves safetensors"
    return None


def _find_weights(name_or_path: str, pickles: bool) -> _Source:
    """The checked files of a model, or its hub id. Raises `ModelError`."""
    path = Path(name_or_path)
    if is_original_checkpoint(name_or_path):
        config, weights = read_original_checkpoint(path)
        return _Source(name_or_path, path.stat().st_size, config=config, weights=weights)
    if is_gguf(name_or_path):
        check_gguf(path)
        size = GGUF_WEIGHTS_PER_BYTE * path.stat().st_size
        return _Source(str(path.parent), size, {"gguf_file": path.name})
    _check_config(path)
    if (path / "adapter_config.json").exists():
        raise ModelError(f"{path} holds an adapter, with which transformers would load the model that it names")
    files, safe = list(path.glob("*.safetensors")), True
    if pickles and not files:
        files = sorted(path.glob("*.bin"))
        safe = not files
        for file in files:
            check_pickled_weights(file)
    # No type of weights has less than a byte for each.
    return _Source(name_or_path, sum(file.stat().st_size for file in files), {"use_safetensors": safe})


def _forget_quantization(model: PreTrainedModel) -> None:
    """Makes of the model of a GGUF file, whose weights are fp32 by now, one that can be saved."""
    model.hf_quantizer = None  # type: ignore[assignment]  # not a module
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def build_from_scratch(
    tokenizer: DialogueTokenizer,
    *,
    layers: int,
    heads: int,
    width: int,
    positions: int,
    dropout: float,
    seed: int,
    check: Callable[[int], None] | None = None,
) -> PreTrainedModel:
    """A GPT-2 (Radford et al. 2019) with random weights that depend on `seed` alone; `check` as in `load_pretrained`.

    Raises `ModelError`.
    """
    if width % heads:
        raise ModelError(f"model.width={width} is not a multiple of model.heads={heads}")
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        # GPT-2's 0.02 is meant for a width of 768; narrower models learn faster from a wider distribution.
        initializer_range=0.02 * (768 / width) ** 0.5,
        bos_token_id=tokenizer.start_id,
        eos_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.pad_id,
    )
    _set_dropout(config, dropout)  # each key, as a resume does
    if check:
        check(_count_weights(config))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_from_config(config)
    fit_to_tokenizer(model, tokenizer)
    return model


def _check_config(folder: Path) -> None:
    """Refuses a `config.json` whose numbers of layers would keep transformers busy for hours. Raises `ModelError`."""
    path = folder / "config.json"
    if not path.is_file():
        return
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(
            f"{path} has {path.stat().st_size:,} bytes; the config of a model has less than {MAX_CONFIG_BYTES:,}"
        )
    try:
        config = json.loads(path.read_bytes())
        tensors = sum(map(_count_tensors, folder.glob("*.safetensors")))
    except (ValueError, RecursionError, OSError, SafetensorError):
        return  # transformers says what is wrong with it
    for key, value in _list_numbers(config):
        if any(word in key for word in _COUNTS) and value > max(tensors, MANY_LAYERS):
            raise ModelError(f"{path}: {key}={value:,} is more than the {tensors:,} tensors of its weights")


def _count_tensors(file: Path) -> int:
    with safe_open(file, "pt") as tensors:
        return len(list(tensors.keys()))


def _list_numbers(config: object, key: str = "") -> Iterator[tuple[str, int]]:
    """Keys and whole numbers of a config, those of its lists and inner configs too."""
    if isinstance(config, int):
        yield key, config
    elif isinstance(config, dict):
        for name, value in config.items():
            yield from _list_numbers(value, name)
    elif isinstance(config, list):
        for value in config:
            yield from _list_numbers(value, key)


def _count_weights(config: PreTrainedConfig) -> int:
    return sum(weight.numel() for weight in build_without_weights(config).parameters())


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Sets every key that names a dropout probability: `resid_pdrop`, `attention_dropout`, `embed_dropout` ..."""
    for key, value in vars(config).items():
        if "drop" in key and "layerdrop" not in key and type(value) in (int, float):
            setattr(config, key, dropout)

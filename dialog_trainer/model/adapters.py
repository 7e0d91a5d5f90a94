"""LoRA (Hu et al. 2021): low-rank adapters next to frozen linear layers, through peft, and the rows of added tokens.

peft trains such rows by copying the whole table at each pass, and its head has no plain weight. Here the table of the
embeddings, and of a head that is not tied to it, is frozen; the trained rows are a parameter of their own, written into the
table before each pass. So all that reads the table sees them, and hooks give them their gradient. On disk the adapter is
peft's: `adapter_config.json` with `trainable_token_indices`, and `adapter_model.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dialog_trainer.errors import CheckpointError, ConfigError
from dialog_trainer.model.kernels.linear_cross_entropy import Rows

if TYPE_CHECKING:
    from peft import LoraConfig

# peft, which is not quick to import, is imported in the functions: each training reads this module, few have an adapter.

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
# Kernels of these read the weight of this layer themselves, so that an adapter would have no effect.
_MAMBAS = {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"}
_READ_DIRECTLY = {"out_proj"}
_PEFT_PREFIX = "base_model.model."
_PEFT_ROWS = "token_adapter.trainable_tokens_delta"


class TrainedRows(torch.nn.Module):
    """Trained rows `values` `(K, D)` of a frozen table, the weight `(V, D)` of an embedding or head; `ids` `(K,)`."""

    def __init__(self, table: torch.nn.Parameter, ids: Sequence[int]):
        super().__init__()
        self.values = torch.nn.Parameter(table.detach()[list(ids)].clone())
        self.ids: torch.Tensor
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        places = torch.full((len(table),), -1, dtype=torch.int64)
        places[list(ids)] = torch.arange(len(ids))
        self.places: torch.Tensor
        self.register_buffer("places", places, persistent=False)

    def write_into(self, table: torch.nn.Parameter) -> None:
        table.data[self.ids] = self.values.data.to(table.dtype)

    def replace_embeddings(self, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Forward hook of the embedding: the same output, in which the trained rows have a gradient."""
        if not torch.is_grad_enabled():
            return output
        places = self.places[inputs[0]]
        at = (places >= 0).nonzero(as_tuple=True)
        rows = self.values[places[at]].to(output.dtype)
        return output.index_put(at, rows * getattr(module, "embed_scale", 1.0))

    def replace_logits(self, module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Forward hook of the head: the same logits, in which the trained rows have a gradient."""
        if not torch.is_grad_enabled():
            return output
        bias = getattr(module, "bias", None)
        logits = linear(inputs[0], self.values, None if bias is None else bias[self.ids])
        return output.index_copy(-1, self.ids, logits.to(output.dtype))


class LoraAdapter:
    """The adapter of a model, in place: `add_lora` makes it and sets it as `model.adapter`.

    `row_modules` maps the parts of `model.lora_rows` to the names of the modules whose tables they are rows of; `new_ids`
    are the tokens of these rows.
    """

    def __init__(
        self, model: PreTrainedModel, config: LoraConfig, row_modules: Mapping[str, str], new_ids: Sequence[int]
    ):
        self._model, self.config, self._row_modules, self.new_ids = model, config, row_modules, list(new_ids)

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """The trained parameters by their names in the model."""
        return {name: value for name, value in self._model.named_parameters() if value.requires_grad}

    def base_weights(self) -> dict[str, torch.Tensor]:
        """The weights of the model without the adapter, by their names there."""
        state = self._model.state_dict()
        frozen = {
            name: value for name, value in state.items() if ".lora_" not in name and not name.startswith("lora_rows.")
        }
        return {name.replace(".base_layer.", "."): value for name, value in frozen.items()}

    def save(self, directory: Path, tensors: Mapping[str, torch.Tensor], base: str) -> None:
        """Writes the adapter as peft does; `base` is the name of the model that it belongs to."""
        save_file(
            {self._peft_name(name): value.contiguous() for name, value in tensors.items()}, directory / WEIGHTS_FILE
        )
        values: dict[str, Any] = self.config.to_dict()  # type: ignore[no-untyped-call]  # peft leaves it untyped
        settings = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
        settings |= {"base_model_name_or_path": base, "inference_mode": True}
        (directory / CONFIG_FILE).write_text(json.dumps(settings, indent=2, default=str), encoding="utf-8")

    def load(self, directory: Path) -> None:
        """Loads what `save` wrote; its config is not read. Raises `CheckpointError` for other names, shapes or types."""
        path, own = directory / WEIGHTS_FILE, self.trained_tensors()
        names = {self._peft_name(name): name for name in own}
        try:
            with safe_open(path, "pt") as saved, torch.no_grad():
                found = {name: saved.get_slice(name) for name in saved.keys()}  # noqa: SIM118  # no mapping
                other = sorted(names.keys() ^ found.keys())
                if other:
                    raise CheckpointError(
                        f"{path} does not fit the model and its adapter: {other[0]} is in one of them alone"
                    )
                for peft_name, name in names.items():
                    shape, kind = found[peft_name].get_shape(), found[peft_name].get_dtype()
                    if tuple(shape) != own[name].shape or kind != "F32":
                        raise CheckpointError(
                            f"{path} does not fit: {peft_name} is {kind} {shape} in place of F32 {list(own[name].shape)}"
                        )
                    own[name].copy_(saved.get_tensor(peft_name))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
        write_trained_rows(self._model)

    def merged_weights(self) -> dict[str, torch.Tensor]:
        """The weights of a model without an adapter that computes the same, by their names there; merges for good."""
        from peft.tuners.lora import LoraLayer

        write_trained_rows(self._model)
        for module in self._model.modules():
            if isinstance(module, LoraLayer):
                module.merge()
        return self.base_weights()

    def _peft_name(self, name: str) -> str:
        if name.startswith("lora_rows."):
            return f"{_PEFT_PREFIX}{self._row_modules[name.split('.')[1]]}.{_PEFT_ROWS}"
        return _PEFT_PREFIX + name.replace(".default.", ".")


def add_lora(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    new_ids: Sequence[int],
    seed: int,
) -> LoraAdapter:
    """Freezes the model and adds adapters to its linear layers `targets` (none named: to all but the head), and trained
    rows for the tokens `new_ids`. The weights depend on `seed` alone. Raises `ConfigError` for a target that is not there.
    """
    from peft import LoraConfig, inject_adapter_in_model

    layers = find_linear_layers(model)
    chosen = list(targets) or sorted({name.rpartition(".")[2] for name in layers})
    missing = [one for one in chosen if not any(name == one or name.endswith(f".{one}") for name in layers)]
    if missing:
        there = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
        raise ConfigError(
            [f"model.adapter.targets: {type(model).__name__} has no linear layer {', '.join(missing)}; it has {there}"]
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=dropout,
        target_modules=chosen,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    row_modules = _add_trained_rows(model, new_ids) if new_ids else {}
    if row_modules:
        config.trainable_token_indices = {name: list(new_ids) for name in row_modules.values()}
    adapter = LoraAdapter(model, config, row_modules, new_ids)
    model.adapter = adapter  # type: ignore[assignment]  # an attribute of our own
    return adapter


def find_linear_layers(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """The linear layers that an adapter can be added to, by name: all but the head."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    without = _READ_DIRECTLY if model.config.model_type in _MAMBAS else set()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and module is not head
        and name.rpartition(".")[2] not in without
    }


def trained_head_rows(model: PreTrainedModel) -> Rows | None:
    """The trained rows of the head, where only some are trained."""
    rows = getattr(model, "lora_rows", None)
    if rows is None:
        return None
    own = rows["head"] if "head" in rows else rows["embeddings"]
    return own.ids, own.values


def write_trained_rows(model: PreTrainedModel) -> None:
    """Writes the trained rows into their tables."""
    rows = getattr(model, "lora_rows", None)
    if rows is None:
        return
    tables: Any = {"embeddings": model.get_input_embeddings(), "head": model.get_output_embeddings()}  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    for name, own in rows.items():
        own.write_into(tables[name].weight)


def _add_trained_rows(model: PreTrainedModel, new_ids: Sequence[int]) -> dict[str, str]:
    """Sets `model.lora_rows`; returns the name of the module of each of its parts."""
    embeddings: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    rows = torch.nn.ModuleDict({"embeddings": TrainedRows(embeddings.weight, new_ids)})
    if head is not None and head.weight is not embeddings.weight:
        rows["head"] = TrainedRows(head.weight, new_ids)
    model.lora_rows = rows
    embeddings.register_forward_pre_hook(lambda *_: write_trained_rows(model))
    embeddings.register_forward_hook(rows["embeddings"].replace_embeddings)
    if head is not None:
        own: Any = rows["head"] if "head" in rows else rows["embeddings"]
        head.register_forward_hook(own.replace_logits)
    names = {id(module): name for name, module in model.named_modules()}
    return {part: names[id(module)] for part, module in (("embeddings", embeddings), ("head", head)) if part in rows}

"""The group `model`: a pretrained model, or the sizes of one from scratch."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Le
from pydantic import AfterValidator

from dialog_trainer.config.commands import is_dotted
from dialog_trainer.config.fields import (
    BelowOne,
    Count,
    Day,
    Length,
    Name,
    Positive,
    Record,
    Texts,
    Whole,
    Words,
    setting,
)


def _check_format(value: str) -> str:
    if value not in CHAT_FORMATS and not is_dotted(value):
        raise ValueError(f"is none of {', '.join(CHAT_FORMATS)}")
    return value


CHAT_FORMATS = ("auto", "separator", "template")
ChatFormatName = Annotated[
    str,
    AfterValidator(_check_format),
    Words("auto, separator, template, or the dotted name of a chat format of your own"),
]


class ModelSizes(NamedTuple):
    """The sizes of a model from scratch: entries of the vocabulary, blocks, heads of a block, width, positions."""

    vocab_size: int
    layers: int
    heads: int
    width: int
    positions: int


class AdapterConfig(Record):
    """Which weights are trained. The numbers are those of `method=lora` alone."""

    method: Literal["none", "lora"] = setting(
        "What is trained: none (no adapter: all weights) or lora (low-rank adapters and the rows of added tokens, Hu et al. "
        "2021; the model itself stays as it is).",
        "refused",
    )
    rank: Count | None = setting("Rank of the adapters of LoRA.", "refused", optional=True)
    alpha: Positive | None = setting(
        "Scale of the adapters: their output times alpha / rank.", "refused", optional=True
    )
    dropout: BelowOne | None = setting("Dropout probability of the input of the adapters.", "inexact", optional=True)
    targets: Texts | None = setting(
        "Names of the linear layers that get an adapter, as [c_attn,c_proj]. []: all but the head.",
        "refused",
        optional=True,
    )

    @property
    def is_lora(self) -> bool:
        return self.method == "lora"


class ModelConfig(Record):
    """A pretrained model, or the sizes of one from scratch (None with a pretrained model, which has its own)."""

    pretrained_model: Name | None = setting(
        "Hub id (downloaded once), folder, GGUF file or .pt of the original program: the model to start from; the dialogue "
        "tokens are added to it. null: a GPT-2 from scratch, of the sizes below.",
        "refused",
    )
    max_len: Length = setting(
        "Longest training sequence, and context window of replies, in tokens; at most the model's positions.", "inexact"
    )
    chat_format: ChatFormatName = setting(
        "How turns become tokens: separator ([CLS] turn [SEP] ...), template (the tokenizer's own chat template), or auto "
        "(template where an instruct model brings one).",
        "refused",
        when_absent="separator",
    )
    chat_date: Day | None = setting(
        "The day that a chat template with a clock gets. null: that of the first start.",
        "refused",
        when_absent=None,
    )
    dropout: BelowOne | None = setting(
        "Dropout probability of every layer. null: as the model's own config says.", "inexact"
    )
    adapter: AdapterConfig = setting("What is trained.", when_absent={"method": "none"})
    vocab_size: Annotated[Whole, Ge(257), Le(1_000_000)] | None = setting(
        "Entries of the byte-level BPE learned from the training split; the dialogue tokens are added.",
        "refused",
        optional=True,
    )
    layers: Count | None = setting("Transformer blocks.", "refused", optional=True)
    heads: Count | None = setting("Attention heads of a block.", "refused", optional=True)
    width: Count | None = setting("Width of the hidden states, a multiple of model.heads.", "refused", optional=True)
    positions: Length | None = setting(
        "Positions of the model, in tokens; at least model.max_len.", "refused", optional=True
    )

    @property
    def sizes(self) -> ModelSizes:
        """The sizes of a model from scratch. Raises `ValueError` for a pretrained model."""
        sizes = [size for size in (self.vocab_size, self.layers, self.heads, self.width, self.positions) if size]
        if len(sizes) < len(ModelSizes._fields):
            raise ValueError("a pretrained model has no sizes here")
        return ModelSizes(*sizes)

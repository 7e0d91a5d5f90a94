"""A context -> its reply, in pieces of text as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel, TextStreamer

from dialog_trainer.data.vocabulary import Vocabulary
from dialog_trainer.model.packed import padded_attention


@torch.no_grad()
def stream_reply(
    model: PreTrainedModel,
    tokenizer: Vocabulary,
    context: Sequence[int],
    on_text: Callable[[str], None],
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
) -> str:
    """One reply, its text given to `on_text` in pieces as it comes. `temperature` 0 is greedy."""
    model.eval()
    rows = torch.tensor([list(context)], device=model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0} if temperature else {}
    with padded_attention(model):
        output = model.generate(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            max_new_tokens=max_new_tokens,
            streamer=_Streamer(tokenizer, on_text),
            **(sampling or {"do_sample": False}),
        )
    return tokenizer.decode(output[0, rows.shape[1] :].tolist()).strip()


class _Streamer(TextStreamer):
    def __init__(self, tokenizer: Vocabulary, on_text: Callable[[str], None]):
        super().__init__(tokenizer.hf_tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.on_text(text)

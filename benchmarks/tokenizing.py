"""Measures how fast the chat formats tokenize: `python benchmarks/tokenizing.py`. Reported, not asserted.

The conversations of the package chitchat-dataset, ten turns each, through a byte-level vocabulary learned from them;
separator and template (ChatML) interleaved, in one process.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time

from transformers import PreTrainedTokenizerFast

from dialog_trainer.data.sources import ChitChat
from dialog_trainer.data.sources.cleaning import ReadCounts, clean_dialogues
from dialog_trainer.data.template_format import TemplateFormat
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.types import Dialogue

DIALOGUES, TURNS, BATCH, ROUNDS = 2_000, 10, 200, 7
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main() -> None:
    read = clean_dialogues(ChitChat().dialogues("train"), ReadCounts())
    dialogues = [Dialogue(one.id, one.turns[:TURNS]) for one in itertools.islice(read, DIALOGUES)]
    tokenizer = DialogueTokenizer.train((turn.text for one in dialogues for turn in one.turns), 8_000)
    made: dict[str, DialogueTokenizer] = {"separator": tokenizer, "template": with_template(tokenizer)}
    gc.freeze()  # as a run does once everything is imported
    rates: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, one in made.items():
            begin, tokens = time.perf_counter(), 0
            for first in range(0, len(dialogues), BATCH):
                encoded = one.chat_format.encode_dialogues(dialogues[first : first + BATCH], 1024, "split")
                tokens += sum(len(sequence.ids) for sequences in encoded for sequence in sequences)
            rates[name].append(tokens / (time.perf_counter() - begin))
    for name, found in rates.items():
        print(f"{name}: {statistics.median(found):,.0f} tokens/s ({min(found):,.0f} to {max(found):,.0f})")
    ratios = [template / separator for separator, template in zip(*rates.values(), strict=True)]
    print(f"template / separator: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def with_template(tokenizer: DialogueTokenizer) -> DialogueTokenizer:
    copy = PreTrainedTokenizerFast(tokenizer_object=tokenizer.hf_tokenizer.backend_tokenizer, eos_token="<|endoftext|>")
    copy.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    copy.chat_template = CHATML
    return DialogueTokenizer(copy, TemplateFormat)


if __name__ == "__main__":
    main()

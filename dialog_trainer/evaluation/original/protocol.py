"""The reply protocol `original`: rows and scores as the original program makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedModel

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.evaluation.original.rows import decode_row, format_target_row, generate_rows, tokenize_row
from dialog_trainer.evaluation.original.scores import original_scores
from dialog_trainer.evaluation.progress import Progress
from dialog_trainer.evaluation.protocols import ReplySettings
from dialog_trainer.metrics.registry import Metrics, Score
from dialog_trainer.types import Dialogue, Reply


@dataclass(frozen=True, slots=True)
class OriginalProtocol:
    """A `ReplyProtocol`. A reply is a row: the first turn and the text generated behind it, `window` tokens in all.

    Its reference is the dialogue cut or padded to `window` tokens. Scores are means over batches of rows, not functions
    of sums, so that they have no intervals. `clean_up`: as in `decode_row`.
    """

    settings: ReplySettings
    batch_size: int
    clean_up: bool = True
    has_turns = False

    def signature(self) -> str:
        return (
            f"protocol:original|context:first turn|decode:greedy|row:{self.settings.window}|truncation:end of the row"
        )

    def describe_scores(self, metrics: Metrics) -> str:
        clean = "|clean:transformers 4.28" if self.clean_up else ""
        return f"case:mixed|tok:model{clean}|rule:nltk|smooth:none|rows:whole|batch:{self.batch_size}"

    def produce_replies(
        self, dialogues: Sequence[Dialogue], model: PreTrainedModel, tokenizer: DialogueTokenizer, progress: Progress
    ) -> list[Reply] | None:
        window = self.settings.window
        rows = generate_rows(
            dialogues, model, tokenizer, max_len=window, batch_tokens=self.settings.batch_tokens, progress=progress
        )
        if rows is None:
            return None
        return [
            Reply(
                dialogue.id,
                turn_index=1,
                history=(dialogue.turns[0].text,),
                reference=decode_row(format_target_row(dialogue, tokenizer, window), tokenizer, self.clean_up),
                text=decode_row(row, tokenizer, self.clean_up),
                ended=False,
            )
            for dialogue, row in zip(dialogues, rows, strict=True)
        ]

    def score_replies(
        self, metrics: Metrics, replies: Sequence[Reply], tokenizer: DialogueTokenizer
    ) -> dict[str, float]:
        rows, references = [reply.text for reply in replies], [reply.reference for reply in replies]
        tokenize = partial(tokenize_row, tokenizer=tokenizer, clean_up=self.clean_up)
        return original_scores(rows, references, tokenize, self.batch_size)

    def summed_metrics(self, metrics: Metrics) -> dict[str, Score]:
        return {name: metric for name, metric in metrics.items() if metric.from_loss}

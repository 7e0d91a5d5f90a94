"""From held-out dialogues to replies, by a named protocol. Scores of different protocols cannot be compared.

- `response`: a reply to every context that ends before a turn of one role, the assistant's unless the roles are swapped.
  The context is what people said, not what the model said before. A reply ends at `[SEP]` or the end-of-text token.
- `all_turns`: the same before every turn after the first, whoever's it is.
- `rollout`: the model goes on from the first user turn and plays both roles (`rollout.py`).
- `original`: whole rows of the original program's rule (`original_rows.py`), to reproduce its old tables alone.

A context that is too long for the window loses whole turns from the left, so that the longest reply fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedModel

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.evaluation.contexts import build_contexts, generate_replies
from dialog_trainer.evaluation.losses import scale_progress
from dialog_trainer.evaluation.original.rows import format_target_row, generate_rows
from dialog_trainer.evaluation.rollout import roll_out
from dialog_trainer.model.generation.sampling import Decoding
from dialog_trainer.types import Context, Dialogue, Reply, Role

BOTH = (Role.USER, Role.ASSISTANT)


@dataclass(frozen=True, slots=True)
class ReplySettings:
    """How replies are made: `protocol`; `role`, who replies by `response`; `max_new_tokens` a reply; `window`: context and
    reply together; `batch_tokens`: one batch of generation; `decoding`, and `seed` of what it draws."""

    protocol: str
    role: Role
    max_new_tokens: int
    window: int
    batch_tokens: int
    decoding: Decoding
    seed: int

    def room(self) -> int:
        """The longest context."""
        return self.window - self.max_new_tokens

    def roles(self) -> tuple[Role, ...]:
        """Who replies."""
        return (self.role,) if self.protocol == "response" else BOTH

    def signature(self) -> str:
        """Of all that a protocol means but the data, as `protocol:response|role:assistant|context:gold|...`."""
        if self.protocol == "original":
            return f"protocol:original|context:first turn|decode:greedy|row:{self.window}|truncation:end of the row"
        context = "own" if self.protocol == "rollout" else "gold"
        who = "+".join(role.name.lower() for role in self.roles())
        drawn = f"|seed:{self.seed}" if self.decoding.kind == "sample" else ""
        return (
            f"protocol:{self.protocol}|role:{who}|context:{context}|decode:{self.decoding.text()}{drawn}"
            f"|max_new:{self.max_new_tokens}|window:{self.window}|truncation:whole turns from the left"
        )


@dataclass(frozen=True, slots=True)
class Production:
    """With what replies are made: `advance` is told how many dialogues were done; once `stopped()`, none is begun."""

    model: PreTrainedModel
    tokenizer: DialogueTokenizer
    stopped: Callable[[], bool]
    advance: Callable[[int], None]


def build_gold_contexts(
    dialogues: Sequence[Dialogue], how: ReplySettings, tokenizer: DialogueTokenizer
) -> list[Context]:
    """The contexts of `response` and `all_turns`, dialogue by dialogue."""
    return [
        context for dialogue in dialogues for context in build_contexts(dialogue, tokenizer, how.room(), how.roles())
    ]


def produce_replies(dialogues: Sequence[Dialogue], how: ReplySettings, by: Production) -> list[Reply] | None:
    """The replies to `dialogues`, in their order; None once stopped."""
    if how.protocol == "original":
        return _original(dialogues, how, by)
    reply = partial(
        generate_replies,
        model=by.model,
        tokenizer=by.tokenizer,
        max_new_tokens=how.max_new_tokens,
        batch_tokens=how.batch_tokens,
        decoding=how.decoding,
        seed=how.seed,
        stopped=by.stopped,
    )
    if how.protocol == "rollout":
        return roll_out(dialogues, by.tokenizer, how.room(), reply, by.advance)
    contexts = build_gold_contexts(dialogues, how, by.tokenizer)
    return reply(contexts, advance=scale_progress(by.advance, len(contexts), len(dialogues)))


def _original(dialogues: Sequence[Dialogue], how: ReplySettings, by: Production) -> list[Reply] | None:
    rows = generate_rows(
        dialogues,
        by.model,
        by.tokenizer,
        max_len=how.window,
        batch_tokens=how.batch_tokens,
        advance=by.advance,
        stopped=by.stopped,
    )
    if rows is None:
        return None
    return [
        Reply(
            dialogue.id,
            1,
            (dialogue.turns[0].text,),
            format_target_row(dialogue, by.tokenizer, how.window),
            row,
            ended=False,
        )
        for dialogue, row in zip(dialogues, rows, strict=True)
    ]

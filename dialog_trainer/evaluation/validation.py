"""A whole validation of a model on one split: loss, replies and scores, with a line that says how they were made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from dialog_trainer.data.order import seed_of
from dialog_trainer.data.tables import DialogueTable, TokenTable
from dialog_trainer.data.vocabulary import Vocabulary
from dialog_trainer.errors import TrainingError
from dialog_trainer.evaluation.by_role import by_role, by_turn, mean_over
from dialog_trainer.evaluation.held_out import held_out_losses
from dialog_trainer.evaluation.replies import contexts_of, drawn, replies_to
from dialog_trainer.metrics import scores as score_rules
from dialog_trainer.records import Reply, Role

PROTOCOL = "response"


@dataclass(frozen=True, slots=True)
class ValidationSettings:
    """`names`: the scores; `role`: who replies; `max_dialogues` bounds the dialogues that are replied to (None: all);
    `max_new_tokens` a reply; `window` context and reply together; `batch_tokens` and `max_tokens` one forward pass
    of generation and of the loss."""

    names: tuple[str, ...]
    role: Role
    max_dialogues: int | None
    max_new_tokens: int
    window: int
    batch_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Validation:
    """`loss` in nats a token and `ppl` over the turns of the role that replies and the end of every dialogue of the
    split; `losses`: those by role and by turn; `scores` by name; `protocol` says how the scores were made."""

    loss: float
    losses: dict[str, float | int | None]
    scores: dict[str, float]
    replies: list[Reply]
    protocol: str

    def samples(self, count: int) -> list[Reply]:
        """At most `count` replies, the same contexts each time, drawn by a hash."""
        key = {id(reply): seed_of("sample", reply.dialogue_id, reply.turn_index) for reply in self.replies}
        return sorted(self.replies, key=lambda reply: key[id(reply)])[:count]


def validate(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    dialogues: DialogueTable,
    tokens: TokenTable,
    settings: ValidationSettings,
    *,
    stage: Callable[[str, int], Callable[[int], None]],
    stopped: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Loss and scores; None once `stopped()`. `stage(name, total)` opens a progress and returns how to advance it."""
    cells = held_out_losses(
        model, tokens, max_tokens=settings.max_tokens, advance=stage("loss", len(tokens)), stopped=stopped
    )
    if cells is None:
        return None
    loss = mean_over(cells, (settings.role, Role.END))
    if loss is None or not math.isfinite(loss):
        raise TrainingError(
            f"the validation loss is {loss}: "
            + ("this split has no turn of that role" if loss is None else "the weights hold values that are not finite")
        )
    indices = drawn(dialogues, settings.max_dialogues)
    room = settings.window - settings.max_new_tokens
    contexts = [
        context for index in indices for context in contexts_of(dialogues[index], vocabulary, room, settings.role)
    ]
    replies = replies_to(
        contexts,
        model,
        vocabulary,
        max_new_tokens=settings.max_new_tokens,
        batch_tokens=settings.batch_tokens,
        advance=stage("replies", len(contexts)),
        stopped=stopped,
    )
    if replies is None:
        return None
    return Validation(
        loss,
        by_role(cells) | by_turn(cells),
        _scores(settings.names, loss, replies),
        replies,
        _protocol(indices, dialogues, replies, settings),
    )


def _scores(names: Sequence[str], loss: float, replies: Sequence[Reply]) -> dict[str, float]:
    texts, references = [reply.text for reply in replies], [[reply.reference] for reply in replies]
    made = score_rules.text_scores(names, texts, references) | {"ppl": math.exp(min(loss, 700.0))}
    return {name: made[name] for name in names}


def _protocol(
    indices: Sequence[int], dialogues: DialogueTable, replies: Sequence[Reply], settings: ValidationSettings
) -> str:
    return (
        f"{PROTOCOL}: {len(replies):,} replies of the {settings.role.name.lower()} in {len(indices):,} of {len(dialogues):,} dialogues, gold context, "
        f"greedy, at most {settings.max_new_tokens} tokens, 1 reference, one corpus; {score_rules.SIGNATURE}"
    )

"""Reply protocols: from held-out dialogues to replies and their scores. Scores of different protocols do not compare.

- `response`: a reply at each turn of one role, the assistant's unless `trained_role` says otherwise. The context holds
  the turns that people wrote, not earlier replies of the model. A reply ends at `[SEP]` or the end-of-text token.
- `all_turns`: the same at each turn after the first, of either role.
- `rollout`: the model continues from the first user turn and plays both roles (`rollout.py`).
- `original`: complete rows by the rule of the original program (`original/`), only to reproduce its tables.

A context that is too long for the window loses whole turns from the left, so that the longest reply fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from transformers import PreTrainedModel

from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.evaluation.contexts import build_contexts
from dialog_trainer.evaluation.progress import SILENT, PartProgress, Progress
from dialog_trainer.evaluation.rollout import roll_out
from dialog_trainer.metrics.registry import SCORES, Metrics, Score, describe_scores, score_replies
from dialog_trainer.model.generation.generate import generate
from dialog_trainer.model.generation.sampling import GREEDY, Decoding
from dialog_trainer.seeds import derive_seed
from dialog_trainer.types import Context, Dialogue, Reply, Role

BOTH_ROLES = (Role.USER, Role.ASSISTANT)


@dataclass(frozen=True, slots=True)
class ReplySettings:
    """How replies are generated.

    `role` is the trained role: it replies by the protocol `response`. A reply has at most `max_new_tokens` tokens, its
    context and itself together at most `window`. `batch_tokens` bounds one batch of generation, in tokens. `seed`
    matters to sampled replies only.
    """

    role: Role
    max_new_tokens: int
    window: int
    batch_tokens: int
    decoding: Decoding = GREEDY
    seed: int = 0

    def max_context_tokens(self) -> int:
        return self.window - self.max_new_tokens


class ReplyProtocol(Protocol):
    """How a validation makes and scores replies; `settings.role` is also the role whose loss counts.

    `has_turns` says whether a reply takes the place of one turn: only then are there baselines, scores of a part of the
    dialogues and scores by depth.
    """

    @property
    def settings(self) -> ReplySettings: ...

    @property
    def has_turns(self) -> bool: ...

    def signature(self) -> str:
        """Everything the replies depend on but model and data, as `protocol:response|role:assistant|context:gold|...`."""

    def describe_scores(self, metrics: Metrics) -> str:
        """The signatures of `metrics` without perplexities, each once, in an order of its own."""

    def produce_replies(
        self, dialogues: Sequence[Dialogue], model: PreTrainedModel, tokenizer: DialogueTokenizer, progress: Progress
    ) -> list[Reply] | None:
        """The replies to `dialogues`, in their order; None on a stop request. `progress` counts dialogues."""

    def score_replies(
        self, metrics: Metrics, replies: Sequence[Reply], tokenizer: DialogueTokenizer
    ) -> dict[str, float]:
        """Those of `metrics` that are made from text, by name. Perplexities are made from the loss."""

    def summed_metrics(self, metrics: Metrics) -> dict[str, Score]:
        """Those of `metrics` that are functions of sums over dialogues: they have confidence intervals."""


@dataclass(frozen=True, slots=True)
class TurnProtocol:
    """The protocols in which a reply takes the place of one turn; `name` is `response`, `all_turns` or `rollout`."""

    name: str
    settings: ReplySettings
    has_turns = True

    def roles(self) -> tuple[Role, ...]:
        """Who replies."""
        return (self.settings.role,) if self.name == "response" else BOTH_ROLES

    def signature(self) -> str:
        settings = self.settings
        context = "own" if self.name == "rollout" else "gold"
        roles = "+".join(role.name.lower() for role in self.roles())
        seed = f"|seed:{settings.seed}" if settings.decoding.kind == "sample" else ""
        return (
            f"protocol:{self.name}|role:{roles}|context:{context}|decode:{settings.decoding.text()}{seed}"
            f"|max_new:{settings.max_new_tokens}|window:{settings.window}|truncation:whole turns from the left"
        )

    def describe_scores(self, metrics: Metrics) -> str:
        names = [*(name for name in SCORES if name in metrics), *sorted(metrics.keys() - SCORES.keys())]
        return describe_scores(names, metrics)

    def produce_replies(
        self, dialogues: Sequence[Dialogue], model: PreTrainedModel, tokenizer: DialogueTokenizer, progress: Progress
    ) -> list[Reply] | None:
        reply = partial(generate_replies, model=model, tokenizer=tokenizer, settings=self.settings)
        if self.name == "rollout":
            reply.keywords["progress"] = PartProgress(progress, part=1, total=0)  # stops; `roll_out` counts
            return roll_out(dialogues, tokenizer, self.settings.max_context_tokens(), reply, progress)
        contexts = self.gold_contexts(dialogues, tokenizer)
        return reply(contexts, progress=PartProgress(progress, len(contexts), len(dialogues)))

    def gold_contexts(self, dialogues: Sequence[Dialogue], tokenizer: DialogueTokenizer) -> list[Context]:
        """The contexts of `response` and `all_turns`, dialogue by dialogue."""
        max_tokens = self.settings.max_context_tokens()
        return [context for one in dialogues for context in build_contexts(one, tokenizer, max_tokens, self.roles())]

    def score_replies(
        self, metrics: Metrics, replies: Sequence[Reply], tokenizer: DialogueTokenizer
    ) -> dict[str, float]:
        return score_replies(metrics, replies, metrics)

    def summed_metrics(self, metrics: Metrics) -> dict[str, Score]:
        return {name: metric for name, metric in metrics.items() if metric.value is not None}


def generate_replies(
    contexts: Sequence[Context],
    model: PreTrainedModel,
    tokenizer: DialogueTokenizer,
    settings: ReplySettings,
    progress: Progress = SILENT,
) -> list[Reply] | None:
    """Replies in the order of `contexts`; None on a stop request. `progress` counts replies.

    A sampled reply depends on the seed, the dialogue's id and the turn's index alone.
    """
    replies: dict[int, Reply] = {}
    generated = generate(
        model,
        tokenizer,
        [context.ids for context in contexts],
        decoding=settings.decoding,
        seeds=[derive_seed(settings.seed, context.dialogue_id, context.turn_index) for context in contexts],
        max_new_tokens=settings.max_new_tokens,
        batch_tokens=settings.batch_tokens,
        stopped=progress.stop_requested,
    )
    for index, ids, ended in generated:
        replies[index] = contexts[index].make_reply(tokenizer.decode(ids).strip(), ended)
        progress.advance(1)
    if len(replies) < len(contexts):
        return None
    return [replies[index] for index in range(len(contexts))]

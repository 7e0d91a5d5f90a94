"""Held-out loss: nats and tokens by role, turn and dialogue, whatever the training mask and the weights in the data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from transformers import PreTrainedModel

from dialog_trainer.data.dataset import TokenDataset
from dialog_trainer.data.packing import batch_to_device, pack_micro_batches, weigh_every_turn
from dialog_trainer.data.sampler import local_shard
from dialog_trainer.data.tokenizer import DialogueTokenizer
from dialog_trainer.distributed import collectives
from dialog_trainer.evaluation.loss_names import ROLE_NAMES, TURN_NAMES
from dialog_trainer.evaluation.progress import SILENT, PartProgress, Progress
from dialog_trainer.metrics.perplexity import count_words_and_bytes
from dialog_trainer.model.loss import sum_by_role_and_turn, token_losses
from dialog_trainer.types import NUM_TURN_BINS, Role

# Sequences packed at a time: each pack is balanced within one such group.
SEQUENCES_PER_CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class HeldOutLosses:
    """Sums over the tokens of a split, float64.

    `role_turn_sums` `(2, 5, NUM_TURN_BINS)` as in `LossSum`; `by_dialogue` `(D, 5, 2)`: nats and number of tokens of
    each dialogue, by role.
    """

    role_turn_sums: torch.Tensor
    by_dialogue: np.ndarray

    def sum_roles(self, roles: tuple[Role, ...]) -> np.ndarray:
        """Nats and tokens of all of `roles` by dialogue, `(D, 2)`."""
        sums: np.ndarray = self.by_dialogue[:, list(roles)].sum(1)
        return sums


@torch.no_grad()
def measure_held_out_losses(
    model: PreTrainedModel, tokens: TokenDataset, *, max_tokens: int, progress: Progress = SILENT
) -> HeldOutLosses | None:
    """Losses of all sequences of `tokens`, at most `max_tokens` in one forward pass; None if any rank saw a stop request.

    Each rank computes its shard of the sequences; the sums are reduced over all ranks. `progress` counts sequences of
    the whole split. The model is left in evaluation mode.
    """
    model.train(False)
    shard = local_shard(tokens.lengths, collectives.world_size(), collectives.rank())
    progress = PartProgress(progress, len(shard), len(tokens))
    role_turn_sums = torch.zeros(2, len(Role), NUM_TURN_BINS, dtype=torch.float64)
    by_dialogue = np.zeros((int(tokens.dialogues[-1]) + 1, len(Role), 2))
    chunks = (shard[first : first + SEQUENCES_PER_CHUNK] for first in range(0, len(shard), SEQUENCES_PER_CHUNK))
    batches = chain.from_iterable(pack_micro_batches(tokens, chunk, weigh_every_turn, max_tokens) for chunk in chunks)
    done, stopped = 0, False
    for batch in batches:
        if stopped := progress.stop_requested():
            break
        targets, nll = token_losses(model, batch_to_device(batch, model.device))
        targets, nll = targets.cpu(), nll.cpu().double()
        role_turn_sums += sum_by_role_and_turn(nll, batch.roles[targets], batch.turns[targets])
        dialogues = np.repeat(tokens.dialogues[shard[done : done + len(batch.lengths)]], batch.lengths)[targets]
        roles = batch.roles[targets].numpy()
        np.add.at(by_dialogue, (dialogues, roles), np.stack([nll.numpy(), np.ones(len(nll))], axis=1))
        done += len(batch.lengths)
        progress.advance(len(batch.lengths))
    if collectives.any_rank(stopped):
        return None
    for sums in (role_turn_sums, torch.from_numpy(by_dialogue)):
        collectives.all_reduce_sum(sums)
    return HeldOutLosses(role_turn_sums, by_dialogue)


def sum_words_and_bytes(tokens: TokenDataset, tokenizer: DialogueTokenizer, role: Role, words: str) -> np.ndarray:
    """`(D, 2)`: words and UTF-8 bytes of the turns of `role` by dialogue, of the text that truncation kept.

    `words` is the tokenizer that counts words, as in `metrics.tokenize`."""
    sums = np.zeros((int(tokens.dialogues[-1]) + 1, 2))
    for _, ids, spans in tokens.chunks():
        ends = np.cumsum(spans.lengths)
        dialogues = np.repeat(spans.dialogues, spans.counts)
        for span in np.flatnonzero((spans.roles == role) & (spans.lengths > 0)):
            text = tokenizer.decode(ids[ends[span] - spans.lengths[span] : ends[span]].tolist())
            sums[dialogues[span]] += count_words_and_bytes([text], words)
    return sums


def nll_by_role(role_turn_sums: torch.Tensor) -> dict[str, float | int | None]:
    """`assistant_nll` ... in nats per token (None without a token) and `assistant_tokens` ..., from `LossSum`'s sums."""
    nats, tokens = role_turn_sums.double().sum(2).tolist()
    values: dict[str, float | int | None] = {f"{name}_nll": _mean(nats[r], tokens[r]) for r, name in ROLE_NAMES.items()}
    return values | {f"{name}_tokens": int(tokens[role]) for role, name in ROLE_NAMES.items()}


def nll_by_turn(role_turn_sums: torch.Tensor) -> dict[str, float | None]:
    """`nll_turn_00` to `nll_turn_10`, in nats per token of the turn, of either role (without the dialogue's end)."""
    nats, tokens = role_turn_sums[:, [Role.USER, Role.ASSISTANT]].double().sum(1).tolist()
    return {name: _mean(nats[turn], tokens[turn]) for turn, name in enumerate(TURN_NAMES)}


def _mean(nats: float, tokens: float) -> float | None:
    return nats / tokens if tokens else None

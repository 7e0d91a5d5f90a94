"""What must hold of the mask over the whole tokenised data before the first step.

1. Each sequence starts with `[CLS]`, which is never trained.
2. Only turns of the user and the assistant, and ends, carry weight.
3. The padding token never does.
4. Each trained turn ends with its separator, unless truncation took its end.
5. The end-of-text token stands, trained, behind each dialogue that is whole or has room for it, and nowhere else.
6. Each sequence has a turn of the trained role, or an end; others are dropped, or refused. Those that carry no weight at
   one of the points are counted, or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from dialog_trainer.errors import ConfigError, DataError
from dialog_trainer.masking.coverage import MaskCounts, count_coverage
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.types import Role, SpecialTokens, TurnSpans

TRAINED_ROLES = (Role.USER, Role.ASSISTANT, Role.END)


@dataclass(frozen=True, slots=True)
class MaskCheckResult:
    """`indices` `(K,)` of the sequences that are trained on, the number `dropped`, and `counts` over the kept ones at
    each point that was asked for."""

    indices: np.ndarray
    dropped: int
    counts: MaskCounts


def check_mask(
    chunks: Iterable[tuple[int, np.ndarray, TurnSpans]],
    ends_dialogue: np.ndarray,
    mask: Mask,
    points: tuple[RoleWeights, ...],
    *,
    special_tokens: SpecialTokens,
    max_len: int,
    drop: bool,
    id_of: Callable[[int], str],
    left_out: Collection[int] = (),
) -> MaskCheckResult:
    """Checks every clause at `points` over `chunks` `(first index, ids, runs)` of all sequences.

    `ends_dialogue` `(S,)` says whether a sequence is its dialogue's last, `id_of` the id of a dialogue by its index. The
    dialogues `left_out` are not kept, nor counted.
    Raises `DataError` with each clause that is broken, `ConfigError` where sequences would be dropped and `drop` is not
    set, or none is left.
    """
    broken: dict[str, list[int]] = {}
    indices, counts, untrained = [], [], []
    for first, ids, spans in chunks:
        weights = [mask.span_weights(spans, at) for at in points]
        last = ends_dialogue[first : first + len(spans.counts)]
        for clause, dialogues in _broken_clauses(ids, spans, weights, last, special_tokens, max_len):
            broken.setdefault(clause, []).extend(dialogues.tolist())
        wanted = ~np.isin(spans.dialogues, left_out)
        keep = mask.trainable(spans) & wanted
        indices.append(first + np.flatnonzero(keep))
        untrained += spans.dialogues[~keep & wanted].tolist()
        counts.append(count_coverage(*_only(spans, weights, keep)))
    if broken:
        lines = [f"\n  - {clause}: {len(at):,}, first in dialogue {id_of(at[0])}" for clause, at in broken.items()]
        raise DataError(
            "the tokenised data break the contract of the mask; they are not what this version writes: remove that "
            f"cache folder and start again{''.join(lines)}"
        )
    kept = MaskCheckResult(np.concatenate(indices), len(untrained), reduce(add, counts))
    first_dropped = next(map(id_of, untrained), "")
    faults = _untrained_faults(kept, mask.trained_role.name.lower(), first_dropped, drop, len(left_out))
    if faults:
        raise ConfigError(faults)
    return kept


def _untrained_faults(kept: MaskCheckResult, role: str, first_dropped: str, drop: bool, leaked: int) -> list[str]:
    """`first_dropped` is the id of the first dialogue with a sequence that has nothing to train."""
    faults, idle = [], kept.counts.untrained.max()
    if kept.dropped and not drop:
        faults.append(
            f"mask_schedule.untrained=refuse: {kept.dropped:,} sequences have no {role} turn and no end, the first "
            f"of dialogue {first_dropped}; pass mask_schedule.untrained=drop, or mend the data"
        )
    elif idle and not drop:
        faults.append(
            f"mask_schedule.untrained=refuse: {idle:,} sequences carry no weight at some point of the "
            "schedule; pass mask_schedule.untrained=drop, which trains them at the others, or change the schedule"
        )
    if not len(kept.indices):
        faults.append(
            f"mask_schedule: no sequence of the training split is left to train: {kept.dropped:,} have no turn of the "
            f"{role} and no end (or the data weigh it 0), {leaked:,} dialogues are left out by data.drop_leaks"
        )
    return faults


def _broken_clauses(
    ids: np.ndarray,
    spans: TurnSpans,
    weights: list[np.ndarray],
    last: np.ndarray,
    special_tokens: SpecialTokens,
    max_len: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """Each clause that is broken, and the dialogue of each place at which it is."""
    sequences = np.repeat(np.arange(len(spans.counts)), spans.counts)
    first_spans = np.cumsum(spans.counts) - spans.counts
    there = spans.lengths > 0
    behind = np.cumsum(spans.lengths)
    last_tokens = ids[np.maximum(0, behind - 1)]
    last_spans = first_spans + spans.counts - 1
    # What truncation left of a turn still has its end where tokens of the sequence follow.
    has_end = (spans.lost == 0) | (behind < behind[last_spans][sequences])
    trained = np.any([w > 0 for w in weights], axis=0) & there
    is_turn = (spans.roles == Role.USER) | (spans.roles == Role.ASSISTANT)
    is_end = spans.roles == Role.END
    is_start = np.zeros(len(spans.roles), dtype=bool)
    is_start[first_spans] = True
    at_pad = np.repeat(trained, spans.lengths) & (ids == special_tokens.pad)
    ends_wrong = (
        is_end
        & there
        & ((spans.lengths != 1) | (last_tokens != special_tokens.end) | ~np.all([w > 0 for w in weights], axis=0))
    )
    ends = np.bincount(sequences[is_end], minlength=len(spans.counts))
    misplaced = (ends != last) | (is_end[last_spans] != last)
    has_room = (np.add.reduceat(spans.lengths, first_spans) < max_len)[sequences]
    after_whole_turn = np.append(False, (spans.lost == 0)[:-1])
    for clause, at in (
        (
            "sequences that do not start with one [CLS]",
            is_start & (spans.lengths != 1) | (is_start != (spans.roles == Role.START)),
        ),
        ("trained tokens outside the turns and ends", trained & ~np.isin(spans.roles, TRAINED_ROLES)),
        (
            "trained turns without their separator",
            trained & is_turn & has_end & (last_tokens != special_tokens.separator),
        ),
        ("ends that are not one trained end-of-text token", ends_wrong),
        ("whole dialogues that lost their end", is_end & ~there & after_whole_turn & has_room),
    ):
        if at.any():
            yield clause, spans.dialogues[sequences[at]]
    if at_pad.any():
        yield "trained padding tokens", spans.dialogues[np.repeat(sequences, spans.lengths)[at_pad]]
    if misplaced.any():
        yield "sequences whose end-of-text token is missing or out of place", spans.dialogues[misplaced]


def _only(spans: TurnSpans, weights: list[np.ndarray], keep: np.ndarray) -> tuple[TurnSpans, list[np.ndarray]]:
    """The runs of the kept sequences, and their weights."""
    if keep.all():
        return spans, weights
    of_run = np.repeat(keep, spans.counts)
    arrays = (getattr(spans, name)[of_run] for name in ("roles", "turns", "lengths", "lost", "weights"))
    return TurnSpans(*arrays, spans.counts[keep], spans.dialogues[keep]), [w[of_run] for w in weights]

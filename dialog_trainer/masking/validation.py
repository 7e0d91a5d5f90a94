"""Checks the mask against the whole tokenized training data before the first step.

What must hold (the contract of the mask), with a sound sequence of two turns; `[CLS]` is 1, `[SEP]` 2, end of text 3:

    ids       1        10 11 2     12 2         3
    span      FORMAT   USER        ASSISTANT    END
    trained   no       yes/no      yes          yes

1. Each sequence starts with what the format adds, which is not trained. broken by  `10 11 2  12 2  3`
2. Only user turns, assistant turns and ends carry weight.                         a weight on a system turn
3. Padding is never trained.                                                       `1  10 0 2  12 2  3`, 0 being the pad
4. Each trained turn ends with the token that the format ends it with,             `1  10 11  12 2  3`
   unless truncation took its end.
5. Where the format has an end of text, it is one trained token. It ends           `1  10 11 2  12 2`
   each dialogue that is complete and has room for it, and is nowhere else.
6. Each sequence has a turn of the trained role or an end of text. Others are dropped, or refused
   (`mask_schedule.untrained`). Those without weight at some point of training are counted, or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import chain, pairwise
from operator import add

import numpy as np

from dialog_trainer.errors import ConfigError, DataError
from dialog_trainer.masking.coverage import MaskCounts, count_coverage
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.types import Role, TokenContract, TurnSpans


@dataclass(frozen=True, slots=True)
class MaskCheckResult:
    """Which sequences are trained on.

    `indices` `(K,)` of the sequences that are kept, the number `dropped`, and `counts` over the kept ones at each point.

    Example, with the assistant as trained role and a maximum length of 4:

        0    [CLS] a [SEP] <end>        kept
        1    [CLS] u u u                dropped: it has neither an assistant turn nor an end of text
        2    [CLS] u [SEP] a            kept

    gives indices [0, 2], dropped 1, and counts over sequences 0 and 2.
    """

    indices: np.ndarray
    dropped: int
    counts: MaskCounts


def check_mask(
    chunks: Iterable[tuple[int, np.ndarray, TurnSpans]],
    mask: Mask,
    points: tuple[RoleWeights, ...],
    *,
    contract: TokenContract,
    max_len: int,
    drop_untrained: bool,
    dialogue_id: Callable[[int], str],
    excluded_dialogues: Collection[int] = (),
) -> MaskCheckResult:
    """Checks the contract at `points`, over `chunks` `(first index, ids (N,), spans)` of all sequences in order.

    `dialogue_id` gives the id of a dialogue for its index. Sequences of `excluded_dialogues` are neither kept nor counted.
    Raises `DataError` with all broken clauses, `ConfigError` if sequences without anything to train must not be dropped,
    or if no sequence is left.
    """
    broken: dict[str, list[int]] = {}
    indices, counts, untrained = [], [], []
    excluded = np.array(list(excluded_dialogues), dtype=np.int64)
    for first, ids, spans, is_last in _mark_last(chunks):
        weights = [mask.weigh_spans(spans, point) for point in points]
        chunk = _Chunk(ids, spans, weights, is_last, contract, max_len)
        for clause, find_broken in _CLAUSES.items():
            broken.setdefault(clause, []).extend(find_broken(chunk).tolist())
        included = ~np.isin(spans.dialogues, excluded)
        keep = mask.find_trainable(spans) & included
        indices.append(first + np.flatnonzero(keep))
        untrained += spans.dialogues[~keep & included].tolist()
        counts.append(count_coverage(*_select_sequences(spans, weights, keep)))
    lines = [
        f"\n  - {clause}: {len(dialogues):,}, first in dialogue {dialogue_id(dialogues[0])}"
        for clause, dialogues in broken.items()
        if dialogues
    ]
    if lines:
        raise DataError(
            "the tokenized data break the contract of the mask; this version does not write such data: remove that cache "
            f"folder and start again{''.join(lines)}"
        )
    result = MaskCheckResult(np.concatenate(indices), len(untrained), reduce(add, counts))
    first_dropped = next(map(dialogue_id, untrained), "")
    role = mask.trained_role.name.lower()
    errors = _find_untrained_errors(result, role, first_dropped, drop_untrained, len(excluded))
    if errors:
        raise ConfigError(errors)
    return result


def _find_untrained_errors(
    result: MaskCheckResult, role: str, first_dropped: str, drop_untrained: bool, excluded: int
) -> list[str]:
    """`first_dropped` is the id of the first dialogue with a sequence that has nothing to train."""
    errors, without_weight = [], result.counts.untrained.max()
    if result.dropped and not drop_untrained:
        errors.append(
            f"mask_schedule.untrained=refuse: {result.dropped:,} sequences have no {role} turn and no end of text, the "
            f"first of dialogue {first_dropped}; pass mask_schedule.untrained=drop, or correct the data"
        )
    elif without_weight and not drop_untrained:
        errors.append(
            f"mask_schedule.untrained=refuse: {without_weight:,} sequences carry no weight at some point of the "
            "schedule; pass mask_schedule.untrained=drop, which trains them at the others, or change the schedule"
        )
    if not len(result.indices):
        errors.append(
            f"mask_schedule: no sequence of the training split is left to train: {result.dropped:,} have no {role} turn "
            f"and no end of text (or data weight 0), {excluded:,} dialogues are excluded by data.drop_leaks; correct the "
            "data or change mask_schedule.trained_role"
        )
    return errors


@dataclass(frozen=True)
class _Chunk:
    """Some sequences, the weights `(R,)` of their spans at each point, and what several clauses need of them."""

    ids: np.ndarray
    spans: TurnSpans
    weights: list[np.ndarray]
    is_last: np.ndarray  # (S,) bool: the last sequence of its dialogue
    contract: TokenContract
    max_len: int

    @cached_property
    def sequences(self) -> np.ndarray:
        return self.spans.sequences

    @cached_property
    def last_spans(self) -> np.ndarray:
        """Index `(S,)` of the last span of each sequence."""
        return np.cumsum(self.spans.counts) - 1

    @cached_property
    def has_tokens(self) -> np.ndarray:
        """`(R,)` bool: truncation left some of it."""
        has_tokens: np.ndarray = self.spans.lengths > 0
        return has_tokens

    @cached_property
    def trained(self) -> np.ndarray:
        """`(R,)` bool: trained at one of the points."""
        trained: np.ndarray = np.any([weights > 0 for weights in self.weights], axis=0) & self.has_tokens
        return trained

    @cached_property
    def last_tokens(self) -> np.ndarray:
        """The last token of each span, `(R,)`; of a span without tokens, that of the span before it."""
        last_tokens: np.ndarray = self.ids[np.maximum(0, np.cumsum(self.spans.lengths) - 1)]
        return last_tokens

    def dialogues_of_spans(self, spans: np.ndarray) -> np.ndarray:
        """The dialogue of each span where `spans` `(R,)` is True."""
        dialogues: np.ndarray = self.spans.dialogues[self.sequences[spans]]
        return dialogues


def _find_start_errors(chunk: _Chunk) -> np.ndarray:
    firsts = chunk.spans.first_spans
    wrong: np.ndarray = (chunk.spans.roles[firsts] != Role.FORMAT) | (chunk.spans.lengths[firsts] < 1)
    dialogues: np.ndarray = chunk.spans.dialogues[wrong]
    return dialogues


def _find_trained_outside(chunk: _Chunk) -> np.ndarray:
    inside = np.isin(chunk.spans.roles, (Role.USER, Role.ASSISTANT, Role.END))
    return chunk.dialogues_of_spans(chunk.trained & ~inside)


def _find_missing_separators(chunk: _Chunk) -> np.ndarray:
    spans = chunk.spans
    lacks_end = np.zeros(len(spans.roles), dtype=bool)
    for role, ends in chunk.contract.turn_ends.items():
        lacks_end |= (spans.roles == role) & ~np.isin(chunk.last_tokens, list(ends))
    # A truncated turn has lost its beginning, not its end, where tokens of its sequence follow it.
    last_positions = np.cumsum(spans.lengths)
    is_followed = last_positions < last_positions[chunk.last_spans][chunk.sequences]
    has_end = (spans.lost == 0) | is_followed
    return chunk.dialogues_of_spans(chunk.trained & has_end & lacks_end)


def _find_end_errors(chunk: _Chunk) -> np.ndarray:
    is_end = (chunk.spans.roles == Role.END) & chunk.has_tokens
    always_trained = np.all([weights > 0 for weights in chunk.weights], axis=0)
    sound = (chunk.spans.lengths == 1) & (chunk.last_tokens == chunk.contract.dialogue_end) & always_trained
    return chunk.dialogues_of_spans(is_end & ~sound)


def _find_lost_ends(chunk: _Chunk) -> np.ndarray:
    spans = chunk.spans
    is_lost = (spans.roles == Role.END) & ~chunk.has_tokens
    after_complete_turn = np.append(False, spans.lost[:-1] == 0)
    has_room = (spans.sum_by_sequence(spans.lengths) < chunk.max_len)[chunk.sequences]
    return chunk.dialogues_of_spans(is_lost & after_complete_turn & has_room)


def _find_trained_padding(chunk: _Chunk) -> np.ndarray:
    token_spans = np.repeat(np.arange(len(chunk.spans.lengths)), chunk.spans.lengths)
    wrong = chunk.trained[token_spans] & (chunk.ids == chunk.contract.pad)
    dialogues: np.ndarray = chunk.spans.dialogues[chunk.sequences[token_spans[wrong]]]
    return dialogues


def _find_misplaced_ends(chunk: _Chunk) -> np.ndarray:
    is_end = chunk.spans.roles == Role.END
    ends = np.bincount(chunk.sequences[is_end], minlength=len(chunk.spans.counts))
    expected = chunk.is_last & (chunk.contract.dialogue_end is not None)
    wrong = (ends != expected) | (is_end[chunk.last_spans] != expected)
    dialogues: np.ndarray = chunk.spans.dialogues[wrong]
    return dialogues


# Each function returns the dialogue of every place at which its clause is broken.
_CLAUSES: dict[str, Callable[[_Chunk], np.ndarray]] = {
    "sequences that start with a turn, or with nothing": _find_start_errors,
    "trained tokens outside the turns and ends": _find_trained_outside,
    "trained turns without the token that ends them": _find_missing_separators,
    "ends that are not one trained end-of-text token": _find_end_errors,
    "complete dialogues without their end": _find_lost_ends,
    "trained padding tokens": _find_trained_padding,
    "sequences whose end-of-text token is missing or out of place": _find_misplaced_ends,
}


def _mark_last(
    chunks: Iterable[tuple[int, np.ndarray, TurnSpans]],
) -> Iterator[tuple[int, np.ndarray, TurnSpans, np.ndarray]]:
    """Adds to each chunk whether a sequence is the last of its dialogue, `(S,)` bool."""
    for chunk, following in pairwise(chain(chunks, (None,))):
        assert chunk is not None
        next_dialogue = -1 if following is None else following[2].dialogues[0]
        dialogues = chunk[2].dialogues
        yield *chunk, dialogues != np.append(dialogues[1:], next_dialogue)


def _select_sequences(
    spans: TurnSpans, weights: list[np.ndarray], keep: np.ndarray
) -> tuple[TurnSpans, list[np.ndarray]]:
    """The spans of the sequences to `keep` `(S,)` bool, and their weights at each point."""
    if keep.all():
        return spans, weights
    keep_spans = np.repeat(keep, spans.counts)
    selected = TurnSpans(
        roles=spans.roles[keep_spans],
        turns=spans.turns[keep_spans],
        lengths=spans.lengths[keep_spans],
        lost=spans.lost[keep_spans],
        weights=spans.weights[keep_spans],
        counts=spans.counts[keep],
        dialogues=spans.dialogues[keep],
    )
    return selected, [values[keep_spans] for values in weights]

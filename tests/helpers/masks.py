"""Sequences written by hand or made from generated dialogues, and slow reference implementations of masks.

The references read `TokenSequence`s token by token; they do not use spans.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from dialog_trainer.data.formatting import make_spans
from dialog_trainer.data.truncation import TRUNCATIONS
from dialog_trainer.types import Role, TurnSpans
from helpers.dialogues import SPECIAL, A, S, U


@dataclass(frozen=True)
class Piece:
    """One span, with its tokens."""

    role: int
    turn: int
    ids: tuple[int, ...]
    lost: int = 0
    weight: float = 1.0


def arrays(sequences, dialogues=None):
    """The ids and `TurnSpans` of sequences of `Piece`s; without `dialogues` each sequence is a dialogue."""
    pieces = [piece for sequence in sequences for piece in sequence]

    def column(values, kind=np.int64):
        return np.array(list(values), dtype=kind)

    return column((token for piece in pieces for token in piece.ids), np.int32), TurnSpans(
        roles=column(piece.role for piece in pieces),
        turns=column(piece.turn for piece in pieces),
        lengths=column(len(piece.ids) for piece in pieces),
        lost=column(piece.lost for piece in pieces),
        weights=column((piece.weight for piece in pieces), np.float32),
        counts=column(map(len, sequences)),
        dialogues=column(range(len(sequences)) if dialogues is None else dialogues),
    )


@dataclass(frozen=True)
class Talk:
    """A dialogue: for each turn its role, its number of tokens without the separator, and its data weight."""

    roles: tuple[int, ...]
    lengths: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Layout:
    """Talks as sequences, as tokens and as `Piece`s. `dialogues[s]` is the index of the talk of sequence `s`."""

    talks: list
    tokens: list
    pieces: list
    dialogues: list

    def arrays(self, places=None):
        """The ids and `TurnSpans` of the sequences at `places`."""
        places = range(len(self.pieces)) if places is None else places
        return arrays([self.pieces[place] for place in places], [self.dialogues[place] for place in places])


def cut(turns, weights, special_tokens, truncation, max_len):
    """Truncates a dialogue: its sequences, and each as `Piece`s."""
    sequences = TRUNCATIONS[truncation](turns, special_tokens, max_len)
    pieces = [[Piece(s.role, s.turn, s.ids, s.lost, weights[s.turn]) for s in one.spans] for one in sequences]
    return sequences, pieces


def lay_out(talks, truncation, max_len):
    layout = Layout(list(talks), [], [], [])
    for number, talk in enumerate(talks):
        turns = make_spans([range(10, 10 + length) for length in talk.lengths], talk.roles, SPECIAL.separator)
        sequences, pieces = cut(turns, talk.weights, SPECIAL, truncation, max_len)
        layout.tokens.extend(sequences)
        layout.pieces.extend(pieces)
        layout.dialogues.extend([number] * len(sequences))
    return layout


@st.composite
def talks(draw, weights=(0.0, 0.5, 1.0, 1.0, 3.0), min_size=1):
    """Dialogues of 2 to 7 turns, most of them alternating, with weights that float32 holds exactly."""
    found = []
    for _ in range(draw(st.integers(min_size, 5))):
        count = draw(st.integers(2, 7))
        alternating = [A if index % 2 else U for index in range(count)]
        roles = draw(
            st.one_of(st.just(alternating), st.lists(st.sampled_from([U, A, S]), min_size=count, max_size=count))
        )
        lengths = draw(st.lists(st.integers(1, 7), min_size=count, max_size=count))
        given = draw(st.lists(st.sampled_from(weights), min_size=count, max_size=count))
        found.append(Talk(tuple(roles), tuple(lengths), tuple(given)))
    return found


@st.composite
def layouts(draw, **options):
    return lay_out(draw(talks(**options)), draw(st.sampled_from(sorted(TRUNCATIONS))), draw(st.integers(8, 40)))


def slow_weights(layout, place, mask, role_weights):
    """The weight of each token of the sequence at `place`, before `normalize`."""
    sequence, number = layout.tokens[place], layout.dialogues[place]
    talk = layout.talks[number]
    spoken = list(zip(sequence.roles, sequence.turns, strict=True))
    present = sorted({turn for role, turn in spoken if role in (U, A) and talk.weights[turn] > 0})
    own = [turn for turn in present if talk.roles[turn] == mask.trained_role]
    drawn = sorted(present, key=lambda turn: slow_hash(number, turn))[: len(own)]
    other = U if mask.trained_role == A else A
    weights = []
    for role, turn in spoken:
        if role not in (U, A):
            weights.append(1.0 if role == Role.END else 0.0)
            continue
        counts_as = (mask.trained_role if turn in drawn else other) if role_weights.random_roles else role
        by_role = role_weights.user if counts_as == U else role_weights.assistant
        not_last = mask.last_turn_only and turn not in own[-1:]
        weights.append(0.0 if not_last else by_role * talk.weights[turn])
    return weights


def slow_trainable(layout, place, mask):
    sequence, talk = layout.tokens[place], layout.talks[layout.dialogues[place]]
    return any(
        role == Role.END or (role == mask.trained_role and talk.weights[turn] > 0)
        for role, turn in zip(sequence.roles, sequence.turns, strict=True)
    )


def slow_hash(dialogue, turn):
    """The finalizer of SplitMix64, in Python integers."""
    mixed = (dialogue * 0x9E3779B97F4A7C15 + turn) % 2**64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
    return mixed ^ mixed >> 31

"""Replies that no model made, to the contexts that a model replies to: what a score is read against.

- `echo`: the last turn before the reply.
- `frequent`: the most frequent training reply of the role; of equally frequent ones the first seen.
- `random`: a training reply of the role, drawn by a hash of the dialogue's id and the turn's index.
- `nearest`: the training reply of the role before which the last two turns were most like those before this one, by the
  cosine of TF-IDF vectors (Salton & Buckley 1988): count of a word times `ln(N / df) + 1`, with `N` training replies of
  the role, `df` of them after that word; words as in `metrics.words`. Exact; of equally near ones the first seen, which
  is the first of all where no word is shared.
- `gold`: the reference itself; with one reference, the highest score there is.
- `human`: leave one out. One of a context's references, drawn as in `random`, replies and is scored against the others.
  A score rises with the number of references: put beside this one only scores of replies `against_the_others`.

A training reply is any turn but the first of its dialogue, as in the contexts.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from dialog_trainer.data.sampler import derive_seed
from dialog_trainer.errors import DataError
from dialog_trainer.metrics.tokenize import split_words
from dialog_trainer.types import Context, Dialogue, Reply, Role

# Of a larger training split so many dialogues, drawn by a hash of their ids, make the baselines.
MAX_TRAINING_DIALOGUES = 100_000
# How many turns before a reply `nearest` compares.
NEAREST_TURNS = 2
# A word that stands before a larger share of the replies is kept as one number for each reply, which adds up faster.
DENSE_SHARE = 0.125

# Training replies in order, each with the turns before it.
_Exchanges = list[tuple[tuple[str, ...], str]]


def make_baselines(
    names: Iterable[str], contexts: Sequence[Context], roles: Sequence[Role], training: Iterable[Dialogue]
) -> dict[str, list[Reply]]:
    """The replies of each baseline of `names`, in the order of `contexts`, all `ended`.

    `roles[i]` is who replies to context `i`. `training` is read once, and only if a baseline needs it.
    Raises `DataError` where it has no reply of a role, or a context has too few references for `human`.
    """
    names = list(names)
    exchanges = _exchanges(training, set(roles)) if FROM_TRAINING.keys() & set(names) else {}
    made = {}
    for name in names:
        if name in FROM_TRAINING:
            choose = {role: FROM_TRAINING[name](found) for role, found in exchanges.items()}
            texts = [choose[role](context) for role, context in zip(roles, contexts, strict=True)]
        else:
            texts = [_FROM_CONTEXT[name](context) for context in contexts]
        replies = [context.answered(text, ended=True) for context, text in zip(contexts, texts, strict=True)]
        made[name] = drop_human_reference(replies) if name == "human" else replies
    return made


def drop_human_reference(replies: Iterable[Reply]) -> list[Reply]:
    """Replies of a model or a baseline, with the references that `human` is scored against: all but the one it takes.

    Raises `DataError` where there are fewer than two.
    """
    return [
        dataclasses.replace(reply, references=reply.references[:place] + reply.references[place + 1 :])
        for reply in replies
        for place in [_left_out(reply)]
    ]


def _left_out(of: Context | Reply) -> int:
    """The place of the reference that `human` takes."""
    if len(of.references) < 2:
        raise DataError(
            f"the baseline 'human' needs at least two references for each context; "
            f"turn {of.turn_index} of dialogue {of.dialogue_id} has {len(of.references)}"
        )
    return derive_seed("human", of.dialogue_id, of.turn_index) % len(of.references)


def _exchanges(training: Iterable[Dialogue], roles: Iterable[Role]) -> dict[Role, _Exchanges]:
    """The training replies of each of `roles`."""
    drawn = heapq.nsmallest(
        MAX_TRAINING_DIALOGUES, enumerate(training), key=lambda item: derive_seed("baselines", item[1].id)
    )
    found: dict[Role, _Exchanges] = {role: [] for role in sorted(roles)}
    for _, dialogue in sorted(drawn, key=lambda item: item[0]):
        texts = [turn.text for turn in dialogue.turns]
        for index, turn in enumerate(dialogue.turns[1:], start=1):
            if turn.role in found:
                found[turn.role].append((tuple(texts[max(0, index - NEAREST_TURNS) : index]), turn.text))
    for role, exchanges in found.items():
        if not exchanges:
            raise DataError(
                f"a baseline needs replies of the {role.name.lower()} in the training split, which has none "
                "(the first turn of a dialogue is no reply)"
            )
    return found


def _frequent(exchanges: _Exchanges) -> Callable[[Context], str]:
    # Of equal counts, `most_common` gives the one that was counted first.
    [(text, _)] = Counter(reply for _, reply in exchanges).most_common(1)
    return lambda context: text


def _random(exchanges: _Exchanges) -> Callable[[Context], str]:
    return lambda context: exchanges[derive_seed("random", context.dialogue_id, context.turn_index) % len(exchanges)][1]


def _nearest(exchanges: _Exchanges) -> Callable[[Context], str]:
    postings = _postings([[word for text in history for word in split_words(text)] for history, _ in exchanges])

    def choose(context: Context) -> str:
        # Not divided by the length of the context's own vector, which is the same for all replies.
        scores = np.zeros(len(exchanges))
        for word, count in Counter(
            word for text in context.history[-NEAREST_TURNS:] for word in split_words(text)
        ).items():
            if word in postings:
                where, weights = postings[word]
                scores[where] += count * weights
        return exchanges[int(scores.argmax())][1]

    return choose


def _postings(documents: Sequence[Sequence[str]]) -> dict[str, tuple[np.ndarray | slice, np.ndarray]]:
    """Of each word the documents that have it and, for each, its weight in the document's vector of length 1, times its
    idf; of a word in many documents, the slice of all of them and weights that may be 0."""
    number: defaultdict[str, int] = defaultdict(lambda: len(number))
    ids = np.fromiter((number[word] for document in documents for word in document), np.int64)
    places = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    # Sorted by word, then by document.
    keys, counts = np.unique(ids * len(documents) + places, return_counts=True)
    ids, places = np.divmod(keys, len(documents))
    frequency = np.bincount(ids)
    idf = np.log(len(documents) / frequency) + 1
    weights = counts * idf[ids]
    lengths = np.sqrt(np.bincount(places, weights**2))
    weights *= idf[ids] / lengths[places]
    postings: dict[str, tuple[np.ndarray | slice, np.ndarray]] = {}
    ends = frequency.cumsum()
    for word, start, end in zip(number, ends - frequency, ends, strict=True):
        postings[word] = places[start:end], weights[start:end]
        if end - start > DENSE_SHARE * len(documents):
            postings[word] = slice(None), np.bincount(*postings[word], minlength=len(documents))
    return postings


FROM_TRAINING: dict[str, Callable[[_Exchanges], Callable[[Context], str]]] = {
    "frequent": _frequent,
    "random": _random,
    "nearest": _nearest,
}
_FROM_CONTEXT: dict[str, Callable[[Context], str]] = {
    "echo": lambda context: context.history[-1],
    "gold": lambda context: context.reference,
    "human": lambda context: context.references[_left_out(context)],
}
BASELINES = (*_FROM_CONTEXT, *FROM_TRAINING)

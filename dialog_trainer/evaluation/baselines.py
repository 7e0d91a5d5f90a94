"""Baselines: replies made without a model, to the same contexts, against which its scores are read.

- `echo`: the last turn before the reply.
- `frequent`: the most frequent training reply of the role; of equally frequent ones the first.
- `random`: a training reply of the role, chosen by a hash of the dialogue's id and the turn's index.
- `nearest`: the training reply of the role whose last two turns before it are most similar to those before this one, by
  the cosine of TF-IDF vectors (Salton & Buckley 1988): the count of a word times `ln(N / df) + 1`, for `N` training
  replies of the role of which `df` follow that word; words of `metrics.tokenize`. Exact; of equally near replies the
  first, which is the first of all if no word is shared.
- `gold`: the reference itself; with one reference, the highest score possible.
- `human`: leave-one-out. One of a context's references, chosen as in `random`, is the reply and is scored against the
  others. More references raise a score: compare `human` only with replies after `drop_human_reference`.

A training reply is any turn but the first of its dialogue, as in the contexts.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dialog_trainer.errors import DataError
from dialog_trainer.metrics.tokenize import split_words
from dialog_trainer.seeds import derive_seed
from dialog_trainer.types import Context, Dialogue, Reply, Role, Say

if TYPE_CHECKING:  # imports torch, which a report without a model does not need
    from dialog_trainer.data.dataset import DialogueDataset

# Of a larger training split, so many dialogues are sampled by a hash of their ids.
MAX_TRAINING_DIALOGUES = 100_000
# Turns before a reply that `nearest` compares.
NEAREST_TURNS = 2
# The weights of a word that occurs before more than this fraction of the replies are stored densely, which adds faster.
DENSE_FRACTION = 0.125

# Training replies in order, each with the turns before it.
_Exchanges = list[tuple[tuple[str, ...], str]]
_Chooser = Callable[[Context], str]


def make_baselines(
    names: Iterable[str],
    contexts: Sequence[Context],
    roles: Sequence[Role],
    training: Iterable[Dialogue],
    words: str = "13a",
) -> dict[str, list[Reply]]:
    """The replies of each baseline of `names`, in the order of `contexts`, all `ended`.

    `roles[i]` is who replies to context `i`. `words` is the tokenizer of words for `nearest`.
    `training` is read once, and only if a baseline needs it.
    Raises `DataError` if `training` has no reply of a role, or a context has too few references for `human`.
    """
    names = list(names)
    exchanges = _collect_exchanges(training, set(roles)) if FROM_TRAINING.keys() & set(names) else {}
    baselines = {}
    for name in names:
        if name in FROM_TRAINING:
            choose = {role: FROM_TRAINING[name](own, words) for role, own in exchanges.items()}
            texts = [choose[role](context) for role, context in zip(roles, contexts, strict=True)]
        else:
            texts = [_FROM_CONTEXT[name](context) for context in contexts]
        replies = [context.make_reply(text, ended=True) for context, text in zip(contexts, texts, strict=True)]
        baselines[name] = drop_human_reference(replies) if name == "human" else replies
    return baselines


def make_baselines_for(
    replies: Sequence[Reply],
    dialogues: DialogueDataset,
    training: DialogueDataset | None,
    log: Say,
    words: str = "13a",
) -> dict[str, list[Reply]]:
    """Every baseline that can be made at the places of `replies`, turns of `dialogues`, from the gold turns before them.

    Without `training`, or where it has no reply of a role, there are no baselines from training; `human` needs two or
    more references for each context, and then `MODEL_AS_HUMAN` holds `replies` scored as `human` is.
    """
    if not replies:
        return {}
    wanted_ids = {reply.dialogue_id for reply in replies}
    turns = {one: dialogues[index].turns for index, one in enumerate(dialogues.rows.column("id")) if one in wanted_ids}
    contexts, roles = [], []
    for reply in replies:
        *before, turn = turns[reply.dialogue_id][: reply.turn_index + 1]
        history = tuple(one.text for one in before)
        # Without ids: a baseline reads text.
        contexts.append(Context(reply.dialogue_id, reply.turn_index, [], history, turn.text, turn.references))
        roles.append(turn.role)
    has_human = all(len(context.references) > 1 for context in contexts)
    names = [
        name
        for name in BASELINES
        if (name != "human" or has_human) and (training is not None or name not in FROM_TRAINING)
    ]
    training_dialogues = (training[index] for index in range(len(training))) if training is not None else ()
    try:
        baselines = make_baselines(names, contexts, roles, training_dialogues, words)
    except DataError as error:
        log(f"note: no baselines from training replies: {error}")
        baselines = make_baselines([name for name in names if name not in FROM_TRAINING], contexts, roles, ())
    if has_human:
        baselines[MODEL_AS_HUMAN] = drop_human_reference(replies)
    return baselines


def drop_human_reference(replies: Iterable[Reply]) -> list[Reply]:
    """`replies` of a model or a baseline, without the reference that `human` takes as its reply.

    Raises `DataError` for fewer than two references.
    """
    return [
        dataclasses.replace(reply, references=reply.references[:place] + reply.references[place + 1 :])
        for reply in replies
        for place in [_human_place(reply)]
    ]


def _human_place(target: Context | Reply) -> int:
    """The index of the reference that `human` takes as its reply."""
    if len(target.references) < 2:
        raise DataError(
            f"the baseline 'human' needs at least two references for each context; "
            f"turn {target.turn_index} of dialogue {target.dialogue_id} has {len(target.references)}"
        )
    return derive_seed("human", target.dialogue_id, target.turn_index) % len(target.references)


def _collect_exchanges(training: Iterable[Dialogue], roles: Iterable[Role]) -> dict[Role, _Exchanges]:
    """The training replies of each of `roles`."""
    sample = heapq.nsmallest(
        MAX_TRAINING_DIALOGUES, enumerate(training), key=lambda item: derive_seed("baselines", item[1].id)
    )
    exchanges: dict[Role, _Exchanges] = {role: [] for role in sorted(roles)}
    for _, dialogue in sorted(sample, key=lambda item: item[0]):
        texts = [turn.text for turn in dialogue.turns]
        for index, turn in enumerate(dialogue.turns[1:], start=1):
            if turn.role in exchanges:
                exchanges[turn.role].append((tuple(texts[max(0, index - NEAREST_TURNS) : index]), turn.text))
    for role, own in exchanges.items():
        if not own:
            raise DataError(
                f"a baseline needs replies of the {role.name.lower()} in the training split, which has none "
                "(the first turn of a dialogue is no reply)"
            )
    return exchanges


def _frequent(exchanges: _Exchanges, words: str) -> _Chooser:
    # Of equal counts, `most_common` gives the one that was counted first.
    [(text, _)] = Counter(reply for _, reply in exchanges).most_common(1)
    return lambda context: text


def _random(exchanges: _Exchanges, words: str) -> _Chooser:
    return lambda context: exchanges[derive_seed("random", context.dialogue_id, context.turn_index) % len(exchanges)][1]


def _nearest(exchanges: _Exchanges, words: str) -> _Chooser:
    postings = _postings([_split_turns(history, words) for history, _ in exchanges])

    def choose(context: Context) -> str:
        # The length of the context's own vector is the same for all replies: not divided by it.
        scores = np.zeros(len(exchanges))
        for word, count in Counter(_split_turns(context.history[-NEAREST_TURNS:], words)).items():
            if word in postings:
                indices, weights = postings[word]
                scores[indices] += count * weights
        return exchanges[int(scores.argmax())][1]

    return choose


def _split_turns(texts: Iterable[str], tokenizer: str) -> list[str]:
    return [word for text in texts for word in split_words(text, tokenizer)]


def _postings(documents: Sequence[Sequence[str]]) -> dict[str, tuple[np.ndarray | slice, np.ndarray]]:
    """An inverted index: for each word, the indices of its documents and its weights in their vectors of length 1, times
    its idf. For a word in many documents, the slice of all documents and weights that may be 0."""
    word_ids: defaultdict[str, int] = defaultdict(lambda: len(word_ids))
    ids = np.fromiter((word_ids[word] for document in documents for word in document), np.int64)
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
    for word, start, end in zip(word_ids, ends - frequency, ends, strict=True):
        postings[word] = places[start:end], weights[start:end]
        if end - start > DENSE_FRACTION * len(documents):
            dense = np.bincount(places[start:end], weights[start:end], minlength=len(documents))
            postings[word] = slice(None), dense
    return postings


FROM_TRAINING: dict[str, Callable[[_Exchanges, str], _Chooser]] = {
    "frequent": _frequent,
    "random": _random,
    "nearest": _nearest,
}
_FROM_CONTEXT: dict[str, _Chooser] = {
    "echo": lambda context: context.history[-1],
    "gold": lambda context: context.reference,
    "human": lambda context: context.references[_human_place(context)],
}
BASELINES = (*_FROM_CONTEXT, *FROM_TRAINING)
# The model's replies against the references that `human` is scored against.
MODEL_AS_HUMAN = "model (as human)"
# For the readers of a table.
DESCRIPTIONS = {
    "echo": "the last turn again",
    "frequent": "the most frequent training reply",
    "random": "a random training reply",
    "nearest": "the training reply after the most similar turns",
    "gold": "the reference itself",
    "human": "one reference, against the others",
    MODEL_AS_HUMAN: "the model, against the same references as human",
}

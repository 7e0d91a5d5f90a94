"""Scores of the original program (ljm565/multi-turn-chatbot-GPT2, `tools/evaluator.py`), only to compare with it.

Complete rows are scored, with prompt, special tokens and padding, each as the tokens of the model's own tokenizer and
with one reference: nltk's corpus BLEU without smoothing and corpus NIST. Batches of rows are scored, and their scores
averaged with the number of rows as weight, as its `TrainingLogger` does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

_Rows = Sequence[Sequence[str]]


def original_scores(
    predictions: Sequence[str],
    targets: Sequence[str],
    tokenize: Callable[[str], Sequence[str]],
    batch_size: int,
) -> dict[str, float]:
    """`bleu2`, `bleu4`, `nist2` and `nist4` of rows of text; 0 if there are no rows.

    Two cases in which nltk's NIST raises an error: an order of which no row of the batch has an n-gram adds 0, and a
    batch without tokens on one of its sides scores 0.
    """
    all_rows, all_references = [tokenize(text) for text in predictions], [tokenize(text) for text in targets]
    totals = dict.fromkeys(("bleu2", "bleu4", "nist2", "nist4"), 0.0)
    for start in range(0, len(all_rows), batch_size):
        rows, references = all_rows[start : start + batch_size], all_references[start : start + batch_size]
        for order in (2, 4):
            totals[f"bleu{order}"] += len(rows) * _bleu(rows, references, order)
            totals[f"nist{order}"] += len(rows) * _nist(rows, references, order)
    return {name: total / max(1, len(all_rows)) for name, total in totals.items()}


def _bleu(rows: _Rows, references: _Rows, order: int) -> float:
    from nltk.translate.bleu_score import corpus_bleu  # nltk looks for a home directory, and only these scores need it

    with warnings.catch_warnings():
        # An order without a match gives a score near 0, as in the original; nltk's advice to smooth does not apply.
        warnings.simplefilter("ignore")
        return float(corpus_bleu([[row] for row in references], rows, weights=(1 / order,) * order))


def _nist(rows: _Rows, references: _Rows, order: int) -> float:
    from nltk.translate.nist_score import corpus_nist

    longest = max(map(len, rows))
    if not longest or not any(references):
        return 0.0
    return float(corpus_nist([[row] for row in references], rows, n=min(order, longest)))

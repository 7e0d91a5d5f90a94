"""Corpus BLEU (Papineni et al. 2002) by sacrebleu, on a scale of 0 to 1."""

from collections.abc import Sequence

from sacrebleu.metrics import BLEU

SIGNATURE = "case:lc|tok:13a|smooth:exp"


def bleu(replies: Sequence[str], references: Sequence[Sequence[str]], order: int) -> float:
    """Of all `replies` as one corpus; `references[i]` are those of reply `i` (as many for each reply). 0 of none."""
    if not replies:
        return 0.0
    streams = [list(stream) for stream in zip(*references, strict=True)]
    # `force` keeps sacrebleu from printing that dialogues look tokenised ("... you ?"): many corpora are.
    metric = BLEU(lowercase=True, tokenize="13a", smooth_method="exp", max_ngram_order=order, force=True)
    return metric.corpus_score(list(replies), streams).score / 100

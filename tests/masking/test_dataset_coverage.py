"""Coverage of a data set, against a token-by-token reference."""

import numpy as np
import pytest

from dialog_trainer.data.dataset import open_dialogues, open_tokens
from dialog_trainer.data.sources.dailydialog import DailyDialog
from dialog_trainer.masking.coverage import measure_coverage
from dialog_trainer.masking.loss_weights import Mask
from dialog_trainer.masking.schedules import RoleWeights

POINTS = (RoleWeights(1.0), RoleWeights(0.0), RoleWeights(0.5, 0.0), RoleWeights(0.0, random_roles=True))


@pytest.mark.slow
@pytest.mark.parametrize("truncation", ["split", "keep_start", "keep_end"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_coverage_equals_the_slow_reference(truncation, size, jsonl_folder, tokenizer, tmp_path):
    source = DailyDialog(str(jsonl_folder), "", None, "")
    dialogues = open_dialogues(source, "train", tmp_path, lambda line: None)
    table = open_tokens(dialogues, tokenizer, max_len=24, truncation=truncation, workers=1, cache_dir=tmp_path)
    mask = Mask(schedule=None)
    kept = np.arange(len(table)) % 5 != 3
    found = measure_coverage(table.chunks(size), mask, POINTS, kept, len(dialogues))
    for index in range(len(dialogues)):
        texts = [turn.text for turn in dialogues[index].turns]
        whole = sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts)) + 1  # separators, and the end
        assert found.tokens[index] == whole
        sequences = np.flatnonzero(table.dialogues == index)
        _, spans = table.columns(sequences)
        assert found.lost[index] == whole - (sum(int(length) for length in spans.lengths) - len(spans.counts))
        for point, weights in enumerate(POINTS):
            expected = 0
            for sequence in sequences[kept[sequences]]:  # other sequences train nothing
                per_token, _ = mask.weigh_tokens(table.columns([sequence])[1], weights)
                expected += sum(weight > 0 for weight in per_token)
            assert found.trained[point, index] == expected
    assert found.counts.sequences == len(table)

"""What a sweep takes on the disk."""

import os

from dialog_trainer.amounts import format_bytes
from dialog_trainer.sweeps.disk import count_parameters, estimate_bytes, measure_bytes
from tests.helpers.configs import compose_config
from tests.sweeps.test_record import RECORD


def test_parameters_of_a_model_from_scratch(tiny_model, tokenizer):
    sizes = {
        "model.layers": 1,
        "model.heads": 2,
        "model.width": 16,
        "model.positions": 64,
        "model.vocab_size": len(tokenizer),
    }
    config = compose_config("model=gpt2_tiny", "data=chitchat").replace(sizes)
    assert count_parameters(config) == sum(one.numel() for one in tiny_model.parameters())
    assert count_parameters(compose_config("model=gpt2", "data=chitchat")) is None
    assert estimate_bytes(os.devnull, RECORD.jobs, [], config) == 2 * 12 * 4 * count_parameters(config)


def test_the_first_run_that_is_done_is_measured(tmp_path):
    run = tmp_path / RECORD.jobs[0].name / "weights"
    run.mkdir(parents=True)
    (run / "a").write_bytes(bytes(1000))
    os.link(run / "a", run / "b")
    (run / "c").write_bytes(bytes(500))
    assert measure_bytes(run.parent) == 1500
    config = compose_config("model=gpt2", "data=chitchat")
    assert estimate_bytes(tmp_path, RECORD.jobs[1:] * 3, RECORD.jobs[:1], config) == 4500


def test_bytes_are_readable():
    assert [format_bytes(count) for count in (10, 3.4e7, 1.25e9)] == ["1 MB", "34 MB", "1.2 GB"]

"""The public API, as a notebook uses it."""

import subprocess
import sys

import pytest

import dialog_trainer


@pytest.fixture
def overrides(jsonl_folder, tmp_path):
    return {
        "model": "gpt2_tiny", "model.layers": 1, "model.heads": 2, "model.width": 16, "model.positions": 64,
        "model.max_len": 48, "model.vocab_size": 300, "data": "dailydialog", "data.path": str(jsonl_folder),
        "batch_size": 8, "steps": 3, "metrics.max_dialogues": 2, "metrics.names": ["ppl", "bleu2"],
        "metrics.best": {"bleu2": 1.0}, "metrics.generation.max_new_tokens": 6, "figures.enabled": False,
        "project": str(tmp_path / "a folder"), "name": "run", "device": "cpu", "max_grad_norm": None,
    }  # fmt: skip


@pytest.mark.slow
def test_train_read_and_reply(overrides):
    run = dialog_trainer.train(overrides)
    assert run.config.optim.lr0 > 0
    assert [row["step"] for row in run.read_metrics()] == [0, 1, 2]
    assert run.read_metrics("validation")[-1]["step"] == 3
    bot = dialog_trainer.load_run(run.folder).load_chatbot("last", device="cpu")
    messages = [{"role": "user", "content": "I heard that the cat likes green tea ."}]
    assert bot.reply(messages) == bot.reply(messages)
    sampled = bot.reply(messages, temperature=1.0, top_p=0.9, max_new_tokens=8, seed=3)
    assert sampled == bot.reply(messages, temperature=1.0, top_p=0.9, max_new_tokens=8, seed=3)
    with pytest.raises(ValueError, match="must end with a turn"):
        bot.reply([])
    with pytest.raises(dialog_trainer.CheckpointError, match="run mode=validate"):
        run.read_scores()


@pytest.mark.slow
def test_train_names_all_errors():
    with pytest.raises(dialog_trainer.ConfigError) as caught:
        dialog_trainer.train({"steps": 0, "optim.lr0": -1, "nonsense": 1})
    assert len(caught.value.errors) == 3


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(dialog_trainer.CheckpointError, match=r"args\.yaml"):
        dialog_trainer.load_run(tmp_path)


def test_importing_the_package_is_light():
    script = "import sys, dialog_trainer; assert not {'torch', 'hydra', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_exists():
    assert all(getattr(dialog_trainer, name) is not None for name in dialog_trainer.__all__)

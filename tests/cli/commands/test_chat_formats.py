"""A toy instruct model trains, resumes, validates, chats and is saved by its own chat template."""

import io
import json

import pytest
import torch
from helpers.templates import SHAPES, make_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from dialog_trainer.api import load_run

pytestmark = pytest.mark.slow


@pytest.fixture
def instruct_model(request, tmp_path):
    """The folder of a small Llama whose tokenizer has the template of a shape."""
    folder, tokenizer = tmp_path / request.param, make_tokenizer(request.param)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("instruct_model", ["chatml", "llama3", "qwen3"], indirect=True)
def test_a_run_keeps_the_template_of_its_model(instruct_model, tiny_options, dialog_trainer, tmp_path, monkeypatch):
    options = [option for option in tiny_options if not option.startswith(("model", "steps=", "name="))] + [
        "model=gpt2",
        f"model.pretrained_model='{instruct_model}'",
        "model.max_len=100",
        "steps=4",
        "save_every_n_steps=2",
    ]
    code, out, _ = dialog_trainer(*options, "name=straight", "model.chat_date=2026-01-31")
    assert code == 0
    assert "model.chat_format=auto is template" in out
    code, _, _ = dialog_trainer(*options, "name=half", "steps=2", "schedule_steps=4", "model.chat_date=2026-01-31")
    runs = {name: next(tmp_path.glob(f"**/{name}")) for name in ("straight", "half")}
    assert (
        dialog_trainer("mode=resume", f"resume_model_dir='{runs['half']}'", "load_model_type=last", "steps=4")[0] == 0
    )
    straight, resumed = (load_file(run / "weights/last/model.safetensors") for run in runs.values())
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)

    run = load_run(runs["straight"])
    assert run.config.model.chat_format == "template"
    assert run.config.model.chat_date == ("2026-01-31" if instruct_model.name == "llama3" else None)
    saved = AutoTokenizer.from_pretrained(runs["straight"] / "weights/last")
    assert saved.chat_template == SHAPES[instruct_model.name][0]
    assert len(saved) == len(make_tokenizer(instruct_model.name))
    generation = json.loads((runs["straight"] / "weights/last/generation_config.json").read_text())
    assert set(run.load_chatbot("last").tokenizer.chat_format.ends) == set(generation["eos_token_id"])

    assert dialog_trainer("mode=validate", f"resume_model_dir='{runs['straight']}'", "load_model_type=last")[0] == 0
    for system, lines in ((None, 1), ("Be short .", 1)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"How are you ?\n")))
        more = [f"chat.system='{system}'"] if system else []
        code, out, _ = dialog_trainer(
            "mode=chat",
            f"resume_model_dir='{runs['straight']}'",
            "load_model_type=last",
            "chat.max_new_tokens=8",
            *more,
        )
        assert (code, len(out.splitlines())) == (0, lines)


def test_a_format_without_system_turns_refuses_one(trained_run, dialog_trainer):
    code, _, err = dialog_trainer("mode=chat", f"resume_model_dir='{trained_run}'", "chat.system=Hello")
    assert code == 2
    assert "chat.system: the chat format of this run (separator) has no system turn" in err


def test_a_model_without_a_template_cannot_have_one(tiny_options, gpt2_folder, dialog_trainer):
    code, _, err = dialog_trainer(*tiny_options, "model.chat_format=template")
    assert (code, "a model from scratch has no chat template" in err) == (2, True)


@pytest.mark.parametrize("instruct_model", ["mistral"], indirect=True)
def test_user_turns_without_an_end_are_not_generated(instruct_model, tiny_options, dialog_trainer):
    options = [option for option in tiny_options if not option.startswith(("model", "metrics"))]
    for more in ("metrics=rollout", "mask_schedule.trained_role=user"):
        code, _, err = dialog_trainer(*options, f"model.pretrained_model='{instruct_model}'", more)
        assert (code, "ends a user turn with no token of its own" in err) == (2, True)

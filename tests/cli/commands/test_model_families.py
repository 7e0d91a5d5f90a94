"""Models of several families, whole or through an adapter: they train, resume bit for bit, validate, chat and export."""

import io
import json
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from dialog_trainer.cli.main import main
from dialog_trainer.training.checkpoint_comparison import compare_checkpoints
from tests.helpers.models import build

pytestmark = pytest.mark.slow

ROWS = 300  # of the tokenizer, before the dialogue tokens are added
FAMILIES = [
    ("gpt2", "lora", {}),
    ("llama", "lora", {"tie_word_embeddings": False}),
    ("qwen2", "none", {"tie_word_embeddings": True}),
    ("gpt_neox", "none", {}),
    ("mamba", "lora", {}),
]


@pytest.fixture(scope="module")
def run_options(tokenizer, jsonl_folder):
    """Options of a run of six steps in a folder, with a random model of a family there."""

    def options(place: Path, kind: str, adapter: str, sizes: dict) -> list[str]:
        folder = place / kind
        build(kind, vocab_size=ROWS, **sizes).save_pretrained(folder)
        backend = json.loads(tokenizer.hf_tokenizer.backend_tokenizer.to_str())
        backend["added_tokens"] = backend["added_tokens"][:1]  # without the dialogue tokens
        plain = Tokenizer.from_str(json.dumps(backend))
        PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|endoftext|>").save_pretrained(folder)
        return [
            "model=gpt2", f"model.pretrained_model='{folder}'", f"model/adapter={adapter}", "model.max_len=48",
            "data=dailydialog", f"data.path='{jsonl_folder}'", "batch_size=4", "schedule_steps=6", "steps=6",
            "scheduler.warmup_steps=0", "optim.lr0=1e-2", "metrics.max_dialogues=1", "metrics.max_new_tokens=4",
            "prediction_print_n=0", "micro_batch_tokens=256", f"project='{place}/runs'", "device=cpu",
            "precision=fp32", "figures.enabled=false", "validate_every_n_steps=3", *(["model.adapter.dropout=0.1"] if adapter == "lora" else []),
        ]  # fmt: skip

    return options


@pytest.mark.parametrize(("kind", "adapter", "sizes"), FAMILIES, ids=[kind for kind, *_ in FAMILIES])
def test_a_family_trains_resumes_validates_and_chats(
    dialog_trainer, run_options, tmp_path, monkeypatch, kind, adapter, sizes
):
    options = run_options(tmp_path, kind, adapter, sizes)
    runs = tmp_path / "runs"

    def go(*arguments: str) -> str:
        code, out, err = dialog_trainer(*arguments)
        assert code == 0, out + err
        return out

    said = go(*options, "name=straight")
    assert ("does not take packed attention" in said) == (kind == "mamba")
    assert ("of them trained" in said) == (adapter == "lora")
    go(*options, "name=half", "steps=3")
    go("mode=resume", f"resume_model_dir={runs}/half", "load_model_type=last", "steps=6")
    assert compare_checkpoints(runs / "straight/weights/last", runs / "half/weights/last") is None
    losses = [json.loads(line).get("train_loss") for line in (runs / "half/metrics.jsonl").read_text().splitlines()]
    assert losses[5] < losses[0] or losses[4] < losses[0]
    go("mode=validate", f"resume_model_dir={runs}/half", "load_model_type=last")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hi .\n")))
    go("mode=chat", f"resume_model_dir={runs}/half", "load_model_type=last")


@pytest.fixture(scope="module")
def _adapted_once(run_options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapted")
    assert main([*run_options(folder, "gpt2", "lora", {}), "name=run"]) == 0
    shutil.rmtree(folder / "gpt2")  # the run needs it no more
    return folder / "runs/run"


@pytest.fixture
def adapted(_adapted_once, tmp_path):
    return shutil.copytree(_adapted_once, tmp_path / "runs/run", symlinks=True)


def test_a_run_keeps_its_base_once_and_loads_no_other(dialog_trainer, adapted, tmp_path):
    checkpoint = adapted / "weights/last"
    assert not (checkpoint / "model.safetensors").exists()
    saved = json.loads((checkpoint / "trainer/state.json").read_text())
    assert saved["new_token_ids"] == [300, 301, 302]
    validate = ("mode=validate", f"resume_model_dir={adapted}", "load_model_type=last")
    assert dialog_trainer(*validate)[0] == 0
    other = Path(shutil.copytree(adapted / "base", tmp_path / "other"))
    (other / "config.json").write_text("{}")
    shutil.copytree(adapted / "base", tmp_path / "kept")
    for name, damage, reason in (
        ("changed", lambda base: (base / "config.json").write_text("{}"), "config.json has 2 bytes instead of"),
        ("manifest", lambda base: (base / "manifest.json").write_text("{}"), "not the one that this checkpoint was"),
        ("link", lambda base: (shutil.rmtree(base), base.symlink_to(other)), "is a link"),
        ("missing", lambda base: base.unlink(), "is missing: it holds the model of the adapters"),
    ):
        damage(adapted / "base")
        code, out, err = dialog_trainer(*validate)
        assert (code, reason in err) == (2, True), (name, out + err)
        if name in ("changed", "manifest"):
            shutil.rmtree(adapted / "base")
            shutil.copytree(tmp_path / "kept", adapted / "base")


def test_export_merges_the_adapter(dialog_trainer, adapted):
    code, out, err = dialog_trainer("mode=export", f"resume_model_dir={adapted}", "load_model_type=last")
    assert code == 0, err
    folder = adapted / "export/last-6"
    assert f"written to {folder}: the model with its adapter merged" in out
    merged, base = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, adapted / "base"))
    assert merged.state_dict().keys() == base.state_dict().keys()
    assert merged.lm_head.weight is merged.transformer.wte.weight
    ids = torch.arange(20).unsqueeze(0)
    assert (merged(input_ids=ids).logits - base(input_ids=ids).logits).abs().max() > 1e-3
    assert dialog_trainer("mode=export", f"resume_model_dir={adapted}", "load_model_type=last")[0] == 0  # again


def test_before_and_after_are_of_the_same_tokens(dialog_trainer, adapted):
    code, out, err = dialog_trainer("mode=before_after", f"resume_model_dir={adapted}", "load_model_type=last")
    assert code == 0, err
    assert re.search(r"at 0.00 +at 0.50", out)
    row = re.search(r"^ *assistant +([\d,]+) +([\d.]+) +([\d.]+) *$", out, flags=re.M)
    assert row, out
    rows = [json.loads(line) for line in (adapted / "metrics.jsonl").read_text().splitlines()]
    measured = rows[-1]["assistant_nll"]
    assert float(row[3]) == pytest.approx(math.exp(measured), rel=1e-3)
    assert float(row[2]) > float(row[3])  # it has learned
    assert out.count("How are you today?") == 1


def test_an_adapter_is_chosen_at_the_first_start(dialog_trainer, adapted):
    for typed in ("model/adapter=none", "model.adapter.rank=2"):
        code, _, err = dialog_trainer("mode=resume", f"resume_model_dir={adapted}", "load_model_type=last", typed)
        assert (code, "model" in err) == (2, True), err

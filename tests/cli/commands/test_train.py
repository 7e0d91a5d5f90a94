"""A new run through the command line: what it leaves, and that it can be repeated."""

import errno
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from dialog_trainer.build.evaluation import run_validation
from dialog_trainer.cli.commands import saving
from dialog_trainer.training import checkpoint
from dialog_trainer.training.checkpoint_directory import find_checkpoint
from dialog_trainer.training.checkpoint_publishing import save_checkpoint
from dialog_trainer.training.saved_state import read_state

pytestmark = pytest.mark.slow

WEIGHTS = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "manifest.json",
    "trainer/state.json",
    "trainer/optimizer.safetensors",
}
HEAD = {"step", "epoch", "attempt", "split", "time_seconds"}
BY_ROLE = {f"{role}_{what}" for role in ("assistant", "user", "end") for what in ("nll", "tokens")}
BY_TURN = {f"nll_turn_{turn:02d}" for turn in range(11)}
DIGEST = {"data", "vocabulary", "format", "truncation", "schedule", "whole"}


def rows(run: Path, split: str) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def timeless(rows: list[dict]) -> list[dict]:
    return [
        {key: row[key] for key in row.keys() - {"time_seconds", "tokens_per_second", "data_seconds"}} for row in rows
    ]


@pytest.fixture
def train(dialog_trainer, tiny_options, tmp_path):
    """`train(*options)` returns the output and the folder of the first run."""

    def run(*options):
        code, out, err = dialog_trainer(*tiny_options, *options)
        assert code == 0, out + err
        return out, tmp_path / "runs" / "run"

    return run


def test_exact_files_of_a_run(dialog_trainer, tiny_options, tmp_path):
    assert dialog_trainer(*tiny_options, "figures.enabled=true", "steps=4")[0] == 0
    figures = {"lr_schedule", "loss", "lr", "scores", "loss_by_role", "loss_by_turn"}
    run = tmp_path / "runs/run"
    found = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    expected = {
        "args.yaml", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "metrics.jsonl",
        "replies.jsonl", "environment.json", "report.html", "logs/rank-0.log", *(f"vis_outputs/{name}.png" for name in figures), *(
            f"weights/{place}/{name}"
            for place in ("step-00000004", "last", "best_metric", "best_loss")
            for name in WEIGHTS
        ),
    }  # fmt: skip
    assert found == expected
    assert not any(path.is_symlink() for path in run.rglob("*"))


def test_rows_of_a_known_gpu_say_how_much_of_it_is_used(train, monkeypatch):
    monkeypatch.setattr("dialog_trainer.cli.commands.callbacks.device_peak_flops", lambda on, precision: 1e9)
    out, run = train("steps=2")
    (parameters,) = re.findall(r"([\d,]+) parameters on", out)
    operations = 6 * int(parameters.replace(",", ""))
    for row in rows(run, "train"):
        assert row["mfu"] == pytest.approx(operations * row["tokens_per_second"] / 1e9, abs=1e-4)


def test_saved_settings_are_whole_and_resolved(train, jsonl_folder):
    _, run = train("steps=4")
    saved = yaml.safe_load((run / "args.yaml").read_text())
    assert saved["schedule_steps"] == 4
    assert saved["data"]["path"] == str(jsonl_folder)
    assert saved["optim"] == {
        "_target_": "torch.optim.AdamW", "lr0": 0.01, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-8,
    }  # fmt: skip
    assert "steps=4" in yaml.safe_load((run / ".hydra/overrides.yaml").read_text())
    state = read_state(run, "weights/last").model_dump()
    assert set(saved["digest"]) == DIGEST
    assert saved["digest"] == state["digest"]
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in saved["digest"].values())


def test_rows(train):
    _, run = train("steps=5", "validate_every_n_steps=2")
    training, validation = rows(run, "train"), rows(run, "validation")
    assert [row["step"] for row in training] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in validation] == [2, 4, 5]
    values = {
        "train_loss",
        "lr",
        "grad_norm",
        "tokens_per_second",
        "data_seconds",
        "trained_token_share",
        "user_weight",
    }
    values |= {"assistant_weight", "assistant_nll", "assistant_tokens", "assistant_tokens_seen", "user_tokens_seen"}
    # What else is there has tokens with weight in the batch: a role, a turn, an end.
    assert all(HEAD | values <= set(row) <= HEAD | values | BY_ROLE | BY_TURN for row in training)
    assert all(row["attempt"] == 0 for row in training)
    scores = {"validation_loss", "ppl", "bleu2", "bleu4", "nist2", "nist4", "best_metric_score", "signature"}
    assert all(set(row) == HEAD | scores | BY_ROLE | BY_TURN for row in validation)
    assert training[0]["lr"] == 0
    assert training[2]["lr"] > 0
    assert [row["user_weight"] for row in training] == [1, 1, 1, 0, 0]
    assert [row["assistant_weight"] for row in training] == [1] * 5
    assert training[0]["trained_token_share"] > training[4]["trained_token_share"]
    for row, users in zip(training, (True, True, True, False, False), strict=True):
        assert {"user_nll", "user_tokens"} & set(row) == ({"user_nll", "user_tokens"} if users else set())
        assert "nll_turn_01" in row
        assert ("nll_turn_00" in row) == ("nll_turn_02" in row) == users
    replies = [json.loads(line) for line in (run / "replies.jsonl").read_text().splitlines()]
    assert [row["step"] for row in replies] == [2, 4, 5]
    assert len({(row["dialogue_id"], row["turn_index"]) for row in replies}) == 1


def test_the_parts_of_a_row_add_up(train):
    _, run = train("steps=5", "validate_every_n_steps=2")
    training, validation = rows(run, "train"), rows(run, "validation")
    seen = {"assistant": 0, "user": 0}
    for row in training:
        tokens = {role: row.get(f"{role}_tokens", 0) for role in ("assistant", "user", "end")}
        nats = sum(row[f"{role}_nll"] * count for role, count in tokens.items() if count)
        assert nats == pytest.approx(row["train_loss"] * sum(tokens.values()), rel=1e-6)
        for role in seen:
            seen[role] += tokens[role]
            assert row[f"{role}_tokens_seen"] == seen[role]
    state = read_state(run, "weights/last").model_dump()
    assert (state["assistant_tokens_seen"], state["user_tokens_seen"]) == (seen["assistant"], seen["user"])
    assert state["tokens_seen"] > sum(seen.values()) > seen["assistant"] > 0
    for row in validation:
        of_loss = [(row[f"{role}_nll"], row[f"{role}_tokens"]) for role in ("assistant", "end")]
        loss = sum(nll * count for nll, count in of_loss) / sum(count for _, count in of_loss)
        assert row["validation_loss"] == pytest.approx(loss, rel=1e-9)
        assert row["end_tokens"] == 8
    held_out = [{name: row[name] for name in BY_ROLE if name.endswith("tokens")} for row in validation]
    assert held_out[0] == held_out[1] == held_out[2]


def test_probes_have_rows_of_their_own(train):
    _, run = train("steps=5", "mask_schedule.alignment_every_n_steps=2")
    probes = rows(run, "probe")
    groups = ("", "_embeddings", "_block_00", "_head")
    names = {f"alignment_{what}{group}" for group in groups for what in ("cosine", "user_norm", "assistant_norm")}
    assert [row["step"] for row in probes] == [0, 2, 4]
    assert all(set(row) == HEAD | names for row in probes)
    assert all(-1 <= row[f"alignment_cosine{group}"] <= 1 for row in probes for group in groups)
    assert not names & set(rows(run, "train")[0])


def test_log_every_n_steps(train):
    _, run = train("steps=5", "log_every_n_steps=3")
    assert [row["step"] for row in rows(run, "train")] == [0, 3]


def test_save_every_n_steps_saves_between_validations(train, monkeypatch):
    saved, save = [], save_checkpoint

    def noting(run, *, state, **keys):
        saved.append((state["step"], sorted(name for name, step in state["kept"].items() if step == state["step"])))
        save(run, state=state, **keys)

    monkeypatch.setattr(saving, "save_checkpoint", noting)
    train("steps=5", "save_every_n_steps=2", "validate_every_n_steps=100", "patience=1")
    assert saved == [(2, ["last"]), (4, ["last"]), (5, ["best_loss", "best_metric", "last"])]


def test_the_same_command_gives_the_same_run_under_the_next_free_name(train, tmp_path):
    _, first = train("model.dropout=0.3")
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    out, _ = train("model.dropout=0.3")
    assert f"note: {first} is taken, so this run is run2; to go on with the other one: mode=resume" in out
    train("model.dropout=0.3")
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["run", "run2", "run3"]
    for again in (tmp_path / "runs/run2", tmp_path / "runs/run3"):
        for file in ("weights/last/model.safetensors", "weights/last/trainer/optimizer.safetensors", "replies.jsonl"):
            assert (again / file).read_bytes() == (first / file).read_bytes()
        for split in ("train", "validation"):
            assert timeless(rows(again, split)) == timeless(rows(first, split))


def test_another_seed_gives_another_run(train, tmp_path):
    train("seed=0")
    train("seed=1")
    assert rows(tmp_path / "runs/run", "train")[0] != rows(tmp_path / "runs/run2", "train")[0]


def test_micro_batches_change_nothing_but_the_last_bits(train, tmp_path):
    train("micro_batch_tokens=1000", "model.dropout=0")
    train("micro_batch_tokens=48", "model.dropout=0")
    one, many = (rows(tmp_path / "runs" / name, "train") for name in ("run", "run2"))
    assert [row["train_loss"] for row in many] == pytest.approx([row["train_loss"] for row in one], rel=1e-5)


def test_whole_epochs_are_trained_past_the_schedules(train, dialog_trainer):
    """As the original: lr and mask are functions of step / steps, and the last epoch goes on past them."""
    options = ("whole_epochs=true", "validate_every_n_steps=epoch", "train_user_turn_mask_step=1", "scheduler=linear")
    out, run = train(
        *options, "steps=4", "batch_size=5", "scheduler.warmup_steps=0", "scheduler.lrf=0.5", "optim.lr0=1e-3"
    )
    found, epochs = rows(run, "train"), [row["step"] for row in rows(run, "validation")]
    assert f"whole_epochs: {len(found)} updates" in out
    assert len(found) == epochs[-1] > 4
    assert epochs == list(range(epochs[0], len(found) + 1, epochs[0]))
    assert [row["lr"] for row in found] == pytest.approx([1e-3 * (1 - 0.5 * step / 4) for step in range(len(found))])
    assert [row["user_weight"] for row in found] == [float(step < 4) for step in range(len(found))]
    code, out, _ = dialog_trainer("mode=resume", f"resume_model_dir='{run}'", "load_model_type=last")
    assert code == 0
    assert f"finished at step {len(found)}" in out


def test_an_early_stop_waits_for_the_final_mask(train):
    out, run = train(
        "optim.lr0=1e-12", "steps=12", "validate_every_n_steps=1", "patience=2", "train_user_turn_mask_step=0.5"
    )
    state = json.loads((run / "weights/last/trainer/state.json").read_text())
    # Without a better one from the second validation on; those after updates 7 and 8 are the first that count.
    assert (state["step"], state["mask_final_from_step"], state["best"]["bad_validations"]) == (8, 6, 2)
    assert "stopped early at step 8" in out
    assert state["kept"] == {
        "last": 8,
        "best_metric": state["best"]["score_step"],
        "best_loss": state["best"]["loss_step"],
    }


def test_a_loss_that_is_not_finite_ends_the_run_with_a_remedy(dialog_trainer, tiny_options, tmp_path):
    wild = ("optim=sgd", "optim.lr0=1e30", "max_grad_norm=null", "scheduler.warmup_steps=1", "save_every_n_steps=1")
    code, out, err = dialog_trainer(*tiny_options, *wild)
    assert code == 1
    step = len(rows(tmp_path / "runs/run", "train"))
    assert err.startswith(f"step {step}: the loss (")
    assert "is not finite; nothing was updated" in err
    assert "Traceback" not in out + err
    assert read_state(tmp_path / "runs/run", "weights/last").step == step


def test_updates_that_are_not_finite_are_skipped_on_request_and_their_dialogues_kept(
    dialog_trainer, tiny_options, tmp_path
):
    wild = ("optim=sgd", "optim.lr0=1e30", "max_grad_norm=null", "scheduler.warmup_steps=1", "steps=9")
    code, out, err = dialog_trainer(*tiny_options, *wild, "nan_policy=skip", "max_skipped_updates=3")
    assert code == 1
    run = tmp_path / "runs/run"
    skipped = [row for row in rows(run, "train") if "skipped_updates" in row]
    assert [row["skipped_updates"] for row in skipped] == [1, 2, 3]
    assert {row["train_loss"] for row in skipped} == {None}
    broken = [row["step"] for row in skipped] + [skipped[-1]["step"] + 1]
    assert err.startswith(f"step {broken[-1]}: the loss (")
    assert sorted(path.name for path in (run / "crash").iterdir()) == [f"step-{step:08d}.json" for step in broken]
    kept = json.loads((run / "crash" / f"step-{broken[0]:08d}.json").read_text())
    assert kept["step"] == broken[0]
    assert all(dialogue["id"] and dialogue["texts"] for dialogue in kept["dialogues"])
    assert f"step {broken[0]} is not finite: its dialogues are in {run}/crash" in out


def test_the_figures_hold_all_validations_of_a_run_that_fails(dialog_trainer, tiny_options, tmp_path, monkeypatch):
    """They are drawn once in a while, so the later ones are drawn at the end, however that comes."""
    drawn = []

    def counted(style, metrics, **keys):
        drawn.append(len(rows(metrics.parent, "validation")))
        return {}

    monkeypatch.setattr("dialog_trainer.cli.commands.figures.plot_curves", counted)
    wild = ("optim=sgd", "max_grad_norm=null", "scheduler=constant", "validate_every_n_steps=1", "patience=99")
    code, _, err = dialog_trainer(
        *tiny_options, "figures.enabled=true", *wild, "optim.lr0=1e3", "scheduler.warmup_steps=0", "steps=50"
    )
    assert code == 1
    assert "not finite" in err
    validations = len(rows(tmp_path / "runs/run", "validation"))
    assert validations > 1
    assert drawn == [validations]


def test_a_figure_that_cannot_be_drawn_does_not_fail_a_run_that_has_ended(
    dialog_trainer, tiny_options, tmp_path, monkeypatch
):
    def full(style, metrics, **keys):
        if len(rows(tmp_path / "runs/run", "validation")) > 1:
            raise OSError(errno.ENOSPC, "No space left on device", "loss.png")
        return {}

    monkeypatch.setattr("dialog_trainer.cli.commands.figures.plot_curves", full)
    code, out, err = dialog_trainer(*tiny_options, "figures.enabled=true", "steps=2", "validate_every_n_steps=1")
    assert code == 0, out + err
    assert "note: the last figures could not be drawn: [Errno 28] No space left on device: 'loss.png'" in out
    assert "finished at step 2" in out


def test_a_full_disk_ends_the_run_with_the_earlier_checkpoint(dialog_trainer, tiny_options, tmp_path, monkeypatch):
    def full(tensors, path):
        if (tmp_path / "runs/run/weights/last").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    code, out, err = dialog_trainer(*tiny_options, "save_every_n_steps=2")
    assert code == 1
    assert err.startswith("the checkpoint of step 4 could not be written")
    assert "Traceback" not in out + err
    assert sorted(path.name for path in (tmp_path / "runs/run/weights").iterdir()) == ["last", "step-00000002"]
    assert find_checkpoint(tmp_path / "runs/run", "last") == "weights/step-00000002"


def test_the_log_says_what_is_done(train):
    out, run = train("steps=4", "prediction_print_n=1")
    for line in (
        "train: 36 dialogues, ",
        f"run folder {run}: ",
        "mask: all turns, assistant turns from step 2 (progress 0.50); ",
        " tokens trained after it (digest ",
        "step 1/4  loss ",
        "step 4  validation_loss ",
        "  gold  ",
        "finished at step 4; checkpoints in ",
        f"python -m dialog_trainer mode=chat resume_model_dir={run}",
    ):
        assert line in out


def test_samples_are_printed_at_a_new_best_and_at_the_end(train):
    # Without learning no validation after the first is better.
    out, run = train("optim.lr0=1e-12", "steps=4", "validate_every_n_steps=1", "prediction_print_n=3")
    printed = [part.splitlines() for part in re.split(r"(?=^step \d+  validation_loss)", out, flags=re.M)[1:]]
    assert ["(best loss, best score)" in lines[0] for lines in printed] == [True, False, False, False]
    assert [sum(line.startswith("  gold ") for line in lines) for lines in printed] == [2, 0, 0, 2]
    assert [f"  1 more: {run}/replies.jsonl" in lines for lines in printed] == [True, False, False, True]
    assert (run / "logs/rank-0.log").read_text().count("  gold ") == 6
    replies = [json.loads(line)["step"] for line in (run / "replies.jsonl").read_text().splitlines()]
    assert replies == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_a_warmup_longer_than_the_run_is_said_in_one_line(train):
    out, _ = train("steps=2", "scheduler.warmup_steps=9")
    assert out.count("note: the warm-up (scheduler.warmup_steps=9) is longer than the run (steps=2)") == 1


def test_bf16_runs_and_stays_near_fp32(train, tmp_path, monkeypatch):
    train("model.dropout=0")
    autocast = []

    def validate(*arguments, **named):
        autocast.append(torch.is_autocast_enabled("cpu"))
        return run_validation(*arguments, **named)

    monkeypatch.setattr("dialog_trainer.cli.commands.callbacks.run_validation", validate)
    train("model.dropout=0", "precision=bf16")
    assert set(autocast) == {False}
    one, other = (rows(tmp_path / "runs" / name, "train") for name in ("run", "run2"))
    assert one[0]["train_loss"] != other[0]["train_loss"]
    assert other[-1]["train_loss"] == pytest.approx(one[-1]["train_loss"], rel=0.02)

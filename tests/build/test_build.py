"""A configuration becomes objects: what each class or function is called with."""

import itertools

import numpy as np
import pytest
import torch

from dialog_trainer.build import data
from dialog_trainer.build.data import Split, build_probe_batches, load_dialogues, tokenize_split
from dialog_trainer.build.instantiate import instantiate
from dialog_trainer.build.mask import build_mask
from dialog_trainer.build.mask_check import check_split_mask, digest_mask
from dialog_trainer.build.optimization import build_optimizer, plan_training
from dialog_trainer.data.sampler import global_batch_indices
from dialog_trainer.errors import ConfigError
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.masking.timeline import build_timeline
from dialog_trainer.seeds import derive_seed
from dialog_trainer.types import Role
from tests.helpers.configs import compose_config


@pytest.fixture
def config(jsonl_folder):
    data = ["data=dailydialog", f"data.path='{jsonl_folder}'", "model=gpt2_tiny"]
    return compose_config(*data, "steps=10", "schedule_steps=10")


ADAMW, COSINE, STEP = (
    "torch.optim.AdamW",
    "dialog_trainer.training.learning_rate.cosine",
    "dialog_trainer.masking.schedules.step",
)


@pytest.mark.parametrize(
    ("group", "target", "arguments", "reason"),
    [
        ("optim", ADAMW, {"amsgrat": 1}, "optim.amsgrat=1: torch.optim.AdamW takes no amsgrat"),
        ("optim", ADAMW, {"lr": 0.1}, "optim.lr=0.1: torch.optim.AdamW takes no lr"),  # lr0 is its one name here
        ("optim", ADAMW, {"params": 1}, "optim: torch.optim.AdamW: multiple values for argument 'params'"),
        ("optim", "torch.optim.NoSuch", {}, "optim._target_=torch.optim.NoSuch: cannot be imported: "),
        ("optim", "no.such.module", {}, "optim._target_=no.such.module: cannot be imported: "),
        ("optim", "nothing", {}, "optim._target_=nothing: cannot be imported: "),
        ("optim", "..a.b", {}, "optim._target_=..a.b: cannot be imported: "),
        ("optim", "os.sep", {}, "optim._target_=os.sep: cannot be called"),
        ("scheduler", COSINE, {"power": 2}, f"scheduler.power=2: {COSINE} takes no power"),
        ("scheduler", COSINE, {"warmup_steps": 1}, f"scheduler: {COSINE}: missing a required argument: 'lrf'"),
        ("mask_schedule", STEP, {"lr": 1}, f"mask_schedule.lr=1: {STEP} takes no lr"),
    ],
)  # fmt: skip
def test_what_a_target_does_not_take_is_named(group, target, arguments, reason):
    with pytest.raises(ConfigError) as caught:
        instantiate(target, arguments, group, lr=1, schedule_steps=1, train_user_turn_mask_step=1)
    [error] = caught.value.errors
    assert error.startswith(reason)


def test_what_an_optimizer_refuses_is_named(config, tiny_model):
    twice = config.replace({"optim.foreach": True, "optim.fused": True})
    with pytest.raises(ConfigError, match=r"optim: torch\.optim\.AdamW refuses "):
        build_optimizer(twice, tiny_model)


def test_a_function_that_is_no_schedule_is_named(config):
    with pytest.raises(ConfigError, match=r"mask_schedule: math.sqrt gives 0.0, where a schedule gives RoleWeights"):
        build_mask(config.replace({"mask_schedule._target_": "math.sqrt"}))


def test_the_optimizer_gets_the_learning_rate_and_every_key(config, tiny_model):
    changes = {"lr0": 0.25, "betas": [0.5, 0.75], "weight_decay": 0.125, "amsgrad": True}
    built = build_optimizer(config.replace({f"optim.{key}": value for key, value in changes.items()}), tiny_model)
    assert type(built) is torch.optim.AdamW
    [group] = built.param_groups
    assert {key: group[key] for key in ("lr", "betas", "weight_decay", "amsgrad", "eps")} == {
        "lr": 0.25, "betas": (0.5, 0.75), "weight_decay": 0.125, "amsgrad": True, "eps": 1e-8,
    }  # fmt: skip
    assert len(group["params"]) == len(list(tiny_model.parameters()))


def test_the_mask_has_its_own_keys_and_the_schedule_the_others(config):
    config = config.replace({
        "mask_schedule._target_": "dialog_trainer.masking.schedules.linear", "mask_schedule.start": 0.0,
        "mask_schedule.end": 1.0, "mask_schedule.start_weight": 0.5, "mask_schedule.end_weight": 0.25,
        "mask_schedule.trained_role": "user", "mask_schedule.normalize": "fixed",
    })  # fmt: skip
    mask = build_mask(config)
    assert (mask.trained_role, mask.last_turn_only, mask.normalize) == (Role.USER, False, "fixed")
    assert mask.weigh_roles(0.5) == RoleWeights(user=1.0, assistant=0.375)


@pytest.fixture
def short(config, tmp_path):
    """Long dialogues are cut into parts of 32 tokens."""
    return config.replace({"data.cache_dir": str(tmp_path / "cache"), "model.max_len": 32})


@pytest.fixture
def split(short, tokenizer):
    """The training split."""
    dialogues = load_dialogues(short, "train", lambda line: None)
    return tokenize_split(short, dialogues, tokenizer, lambda line: None)


@pytest.mark.parametrize(("split", "other"), [("train", "validation"), ("validation", "train")])
def test_only_the_first_dialogues_of_a_split(config, split, other):
    lines = []
    limited = config.replace({f"data.max_{split}_dialogues": 5})
    first, every = (load_dialogues(one, split, lines.append) for one in (limited, config))
    assert first.rows.column("id") == every.rows.column("id")[:5]
    assert "the first 5 dialogues of" in lines[0]
    few = "warning: only 5 validation dialogues: scores, and choices by them, are rough below about 20"
    assert (few in lines) == (split == "validation")
    assert len(load_dialogues(limited, other, lines.append)) == len(load_dialogues(config, other, lines.append)) > 5


def test_the_batches_of_a_step_are_those_of_the_kept_sequences_weighed_as_planned(short, split):
    config = short.replace({"batch_size": 5, "seed": 3, "micro_batch_tokens": 70})
    mask = build_mask(config)
    kept = np.arange(0, len(split.tokens), 3)
    plan = plan_training(config, split.tokens, kept, mask, torch.device("cpu"))
    assert plan.steps_per_epoch == -(-len(kept) // 5)
    user_is_trained = []
    for step in (0, 4, 5, 9, 1):
        batches = list(plan.batches(step))
        assert len(batches) > 1
        ids, runs = split.tokens.columns(kept[global_batch_indices(3, step, len(kept), 5)])
        assert torch.cat([batch.ids for batch in batches]).tolist() == ids.tolist()
        weights, divisor = mask.weigh_tokens(runs, plan.role_weights(step))
        assert torch.cat([batch.weights for batch in batches]).tolist() == weights.tolist()
        assert sum(batch.divisor for batch in batches) == pytest.approx(divisor)
        roles = torch.cat([batch.roles for batch in batches]).numpy()
        user_is_trained.append(bool(weights[roles == Role.USER].any()))
    assert user_is_trained == [True, True, False, False, True]
    assert [plan.role_weights(step) for step in (4, 5, 50)] == [RoleWeights(1.0), RoleWeights(0.0), RoleWeights(0.0)]


def test_the_mask_is_checked_and_counted_at_its_final_weights_and_each_of_its_kinds(short, split, tokenizer):
    mask = build_mask(short)
    whole = build_timeline(mask, 10)
    kept = check_split_mask(short, split, tokenizer, mask, whole)
    assert kept.indices.tolist() == list(range(len(split.tokens)))
    assert (kept.dropped, kept.counts.sequences) == (0, len(split.tokens))
    assert kept.counts.tokens.sum() == split.tokens.lengths.sum()
    by_role = kept.counts.trained.sum(2).tolist()
    users, assistants = (kept.counts.tokens[role].sum() for role in (Role.USER, Role.ASSISTANT))
    ends = len(split.dialogues) - kept.counts.lost_ends
    both, final = [0, users, assistants, ends, 0], [0, 0, assistants, ends, 0]
    assert by_role == [final, both, final]


def test_the_digest_of_the_mask_has_a_part_for_each_thing_that_decides_it(short, split, tokenizer, gpt2_tokenizer):
    other = Split(load_dialogues(short, "validation", lambda line: None), split.tokens)
    plain = digest_mask(short, split, tokenizer)
    assert set(plain) == {"data", "vocabulary", "format", "truncation", "schedule", "whole"}
    assert plain == digest_mask(short.replace({"optim.lr0": 1}), split, tokenizer)

    def parts(changes: dict, split=split, tokenizer=tokenizer) -> set[str]:
        found = digest_mask(short.replace(changes), split, tokenizer)
        return {name for name in plain if found[name] != plain[name]}

    assert parts({}, split=other) == {"data", "whole"}
    assert parts({}, tokenizer=gpt2_tokenizer) == {"vocabulary", "whole"}
    for key, value in (("data.truncation", "keep_end"), ("model.max_len", 33)):
        assert parts({key: value}) == {"truncation", "whole"}
    for key, value in (
        ("train_user_turn_mask_step", 0.25), ("schedule_steps", 11), ("mask_schedule.normalize", "turn"),
        ("mask_schedule.trained_role", "user"), ("mask_schedule.last_turn_only", True), ("mask_schedule.untrained", "refuse"), ("mask_schedule._target_", "x.y"),
    ):  # fmt: skip
        assert parts({key: value}) == {"schedule", "whole"}, key
    assert parts({"train_user_turn_mask_step": 0}) == {"schedule", "whole"}
    zero = [digest_mask(short.replace({"train_user_turn_mask_step": value}), split, tokenizer) for value in (0, 0.0)]
    assert zero[0] == zero[1]
    assert parts({"mask_schedule.alignment_every_n_steps": 7, "seed": 9, "steps": 11, "data.cache_dir": "x"}) == set()


def test_the_probe_is_the_same_whatever_the_run_and_about_as_large_as_said(short, split, monkeypatch):
    order = np.random.Generator(np.random.PCG64(derive_seed("probe"))).permutation(len(split.tokens))
    for most, seed in itertools.product((1, 200, 10**6), (0, 7)):
        monkeypatch.setattr(data, "PROBE_TOKENS", most)
        config = short.replace({"seed": seed, "micro_batch_tokens": 64})
        batches = build_probe_batches(config, split.tokens, torch.device("cpu"))
        lengths = [length for batch in batches for length in batch.lengths]
        assert lengths == split.tokens.lengths[order[: len(lengths)]].tolist()
        assert sum(lengths) < most or len(lengths) == 1
        assert len(lengths) == len(split.tokens) or sum(lengths) + split.tokens.lengths[order[len(lengths)]] >= most
        ids, _ = split.tokens.columns(order[: len(lengths)])
        assert torch.cat([batch.ids for batch in batches]).tolist() == ids.tolist()
        assert all(len(batch.ids) <= 64 for batch in batches)
        assert all(torch.equal(batch.weights > 0, batch.positions > 0) for batch in batches)


@pytest.mark.slow
def test_a_class_of_the_user_runs_only_if_the_command_line_allows_it(
    dialog_trainer, tiny_options, tmp_path, monkeypatch
):
    (tmp_path / "own_optimizers.py").write_text(
        "import torch\n\nprint('own code runs')\n\n\n"
        "class Slow(torch.optim.SGD):\n"
        "    def __init__(self, params, lr, brake):\n"
        "        super().__init__(params, lr / brake)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    groups = tmp_path / "groups" / "optim"
    groups.mkdir(parents=True)
    (groups / "slow.yaml").write_text("_target_: own_optimizers.Slow\nlr0: 0.1\nbrake: 2\n")
    typed = ["--config-dir", str(groups.parent), *(o for o in tiny_options if "lr0" not in o), "optim=slow", "steps=1"]
    code, out, err = dialog_trainer(*typed)
    assert code == 2
    assert "optim._target_=own_optimizers.Slow: not one of " in err
    assert "pass allow_targets=[own_optimizers.Slow]" in err
    assert "own code runs" not in out
    code, out, err = dialog_trainer(*typed, "allow_targets=[own_optimizers.Slow]")
    assert code == 0, out + err
    assert "own code runs" in out
    run = f"resume_model_dir='{tmp_path}/runs/run'"
    code, _, err = dialog_trainer("mode=resume", run, "load_model_type=last", "steps=2")
    assert code == 2
    assert "pass allow_targets=[own_optimizers.Slow]" in err
    assert dialog_trainer("mode=validate", run, "load_model_type=last", "metrics.max_dialogues=1")[0] == 0


def test_the_digest_of_the_data_knows_which_dialogues_are_left_out(config, tokenizer):
    class Table:
        digest = "d"

    split = Split(Table(), Table())
    digests = [digest_mask(config, split, tokenizer, out) for out in ((), {3, 1}, [1, 3], {1})]
    assert digests[1] == digests[2]
    assert len({digest["data"] for digest in digests}) == 3
    assert len({digest["schedule"] for digest in digests}) == 1


@pytest.mark.parametrize(
    ("files", "options", "split"),
    [
        (["train.jsonl", "validation.jsonl", "test.jsonl"], ["data.train_data_path={folder}"], "test"),
        (["train.jsonl", "validation.jsonl"], ["data.train_data_path={folder}"], "validation"),
        (["train.jsonl"], ["data.train_data_path={folder}/train.jsonl"], "validation"),
        (["a.jsonl", "b.jsonl"], ["data.train_data_path={folder}/a.jsonl", "data.test_data_path={folder}/b.jsonl"], "test"),
    ],
    ids=["folder with test", "folder without test", "one file", "typed test"],
)  # fmt: skip
def test_a_finished_run_is_scored_on_test_where_there_is_one(tmp_path, files, options, split):
    for name in files:
        (tmp_path / name).write_text('{"turns": ["Hi .", "Hello !"]}\n')
    typed = [option.format(folder=tmp_path).replace("=", "='", 1) + "'" for option in options]
    assert data.find_final_split(compose_config("data=files", *typed)) == split

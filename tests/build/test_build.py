"""Settings -> built objects: classes by name, what each is called with."""

import copy
import itertools

import numpy as np
import pytest
import torch
from dialog_trainer.build import data
from dialog_trainer.build.data import Split
from dialog_trainer.build.data import build_probe_batches
from dialog_trainer.build.data import load_dialogues
from dialog_trainer.build.data import tokenize_split
from dialog_trainer.build.mask import build_mask
from dialog_trainer.build.mask import check_split_mask
from dialog_trainer.build.mask import digest_mask
from dialog_trainer.build.optimization import build_optimizer
from dialog_trainer.build.optimization import plan_training
from dialog_trainer.cli.compose import compose_settings
from dialog_trainer.cli.compose import set_key
from dialog_trainer.data.sampler import derive_seed
from dialog_trainer.data.sampler import global_batch_indices
from dialog_trainer.errors import ConfigError
from dialog_trainer.masking.schedules import RoleWeights
from dialog_trainer.masking.timeline import build_timeline
from dialog_trainer.types import Role


@pytest.fixture
def settings(jsonl_folder):
    return copy.deepcopy(
        compose_settings(["data=dailydialog", f"data.path='{jsonl_folder}'", "model=gpt2_tiny", "steps=10"], None)
    ) | {"schedule_steps": 10}


@pytest.mark.parametrize(
    ("group", "changes", "reason"),
    [
        ("optim", {"amsgrat": 1}, "optim.amsgrat=1: torch.optim.AdamW takes no amsgrat"),
        ("optim", {"lr": 0.1}, "optim.lr=0.1: torch.optim.AdamW takes no lr"),  # lr0 is its one name here
        ("optim", {"params": 1}, "optim: torch.optim.AdamW: multiple values for argument 'params'"),
        ("optim", {"_target_": "torch.optim.NoSuch"}, "_target_=torch.optim.NoSuch: cannot be imported: "),
        ("optim", {"_target_": "no.such.module"}, "_target_=no.such.module: cannot be imported: "),
        ("optim", {"_target_": "nothing"}, "_target_=nothing: cannot be imported: "),
        ("optim", {"_target_": "..a.b"}, "_target_=..a.b: cannot be imported: "),
        ("optim", {"_target_": "os.sep"}, "optim._target_=os.sep: cannot be called"),
        ("optim", {"weight_decay": -1}, "optim: torch.optim.AdamW refuses {'weight_decay': -1, "),
        ("optim", {"foreach": True, "fused": True}, "optim: torch.optim.AdamW refuses "),
        ("scheduler", {"power": 2}, "scheduler.power=2: dialog_trainer.training.learning_rate.cosine takes no power"),
        ("scheduler", {"lrf": None}, "scheduler: dialog_trainer.training.learning_rate.cosine: missing a required argument: 'lrf'"),
        ("mask_schedule", {"train_user_turn_mask_step": 1}, "mask_schedule.train_user_turn_mask_step=1: dialog_trainer.masking.schedules.step takes no train_user"),
        ("mask_schedule", {"speed": 2}, "mask_schedule.speed=2: dialog_trainer.masking.schedules.step takes no speed"),
        ("mask_schedule", {"_target_": "dialog_trainer.masking.schedules.constant"}, "mask_schedule: dialog_trainer.masking.schedules.constant: missing a required argument: 'end_weight'"),
        ("mask_schedule", {"_target_": "math.sqrt"}, "mask_schedule: math.sqrt gives 0.0, where a schedule gives RoleWeights(user, assistant)"),
        ("data", {"colour": 1}, "data.colour=1: dialog_trainer.data.sources.DailyDialog takes no colour"),
        ("data", {"path": None}, "data: dialog_trainer.data.sources.DailyDialog: missing a required argument: 'path'"),
    ],
)  # fmt: skip
def test_what_a_class_does_not_take_is_named(settings, tiny_model, group, changes, reason):
    """A change to None takes the key away."""
    changed = {key: value for key, value in (settings[group] | changes).items() if changes.get(key, 0) is not None}
    settings[group] = changed
    build = {
        "optim": lambda: build_optimizer(settings, tiny_model),
        "scheduler": lambda: plan_training(settings, None, np.arange(2), None, torch.device("cpu")),
        "mask_schedule": lambda: build_mask(settings),
        "data": lambda: load_dialogues(settings, "train", print),
    }[group]
    with pytest.raises(ConfigError) as caught:
        build()
    assert len(caught.value.errors) == 1
    assert caught.value.errors[0].startswith(reason)


def test_the_optimizer_gets_the_learning_rate_and_every_key(settings, tiny_model):
    settings["optim"] |= {"lr0": 0.25, "betas": [0.5, 0.75], "weight_decay": 0.125, "amsgrad": True}
    built = build_optimizer(settings, tiny_model)
    assert type(built) is torch.optim.AdamW
    [group] = built.param_groups
    assert {key: group[key] for key in ("lr", "betas", "weight_decay", "amsgrad", "eps")} == {
        "lr": 0.25, "betas": (0.5, 0.75), "weight_decay": 0.125, "amsgrad": True, "eps": 1e-8,
    }  # fmt: skip
    assert len(group["params"]) == len(list(tiny_model.parameters()))


def test_the_mask_has_its_own_keys_and_the_schedule_the_others(settings):
    settings["mask_schedule"] = {
        "_target_": "dialog_trainer.masking.schedules.linear", "start": 0.0, "end": 1.0, "start_weight": 0.5,
        "end_weight": 0.25, "trained_role": "user", "last_turn_only": False, "normalize": "fixed",
        "untrained": "refuse", "alignment_every_n_steps": 3,
    }  # fmt: skip
    mask = build_mask(settings)
    assert (mask.trained_role, mask.last_turn_only, mask.normalize) == (Role.USER, False, "fixed")
    assert mask.weigh_roles(0.5) == RoleWeights(user=1.0, assistant=0.375)


@pytest.fixture
def split(settings, tmp_path, tokenizer):
    """The training split, long dialogues cut into parts of 32 tokens."""
    settings["data"]["cache_dir"] = str(tmp_path / "cache")
    settings["model"]["max_len"] = 32
    dialogues = load_dialogues(settings, "train", lambda line: None)
    return tokenize_split(settings, dialogues, tokenizer, "split")


def test_the_batches_of_a_step_are_those_of_the_kept_sequences_weighed_as_planned(settings, split):
    settings |= {"batch_size": 5, "seed": 3, "micro_batch_tokens": 70}
    mask = build_mask(settings)
    kept = np.arange(0, len(split.tokens), 3)
    plan = plan_training(settings, split.tokens, kept, mask, torch.device("cpu"))
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


def test_the_mask_is_checked_and_counted_at_its_final_weights_and_each_of_its_kinds(settings, split, tokenizer):
    mask = build_mask(settings)
    whole = build_timeline(mask, 10)
    kept = check_split_mask(settings, split, tokenizer, mask, whole)
    assert kept.indices.tolist() == list(range(len(split.tokens)))
    assert (kept.dropped, kept.counts.sequences) == (0, len(split.tokens))
    assert kept.counts.tokens.sum() == split.tokens.lengths.sum()
    by_role = kept.counts.trained.sum(2).tolist()
    users, assistants = (kept.counts.tokens[role].sum() for role in (Role.USER, Role.ASSISTANT))
    ends = len(split.dialogues) - kept.counts.lost_ends
    both, final = [0, users, assistants, ends, 0], [0, 0, assistants, ends, 0]
    assert by_role == [final, both, final]


def test_the_digest_of_the_mask_has_a_part_for_each_thing_that_decides_it(settings, split, tokenizer, gpt2_tokenizer):
    other = Split(load_dialogues(settings, "validation", lambda line: None), split.tokens)
    plain = digest_mask(settings, split, tokenizer)
    assert set(plain) == {"data", "vocabulary", "format", "truncation", "schedule", "whole"}
    assert plain == digest_mask(copy.deepcopy(settings), split, tokenizer)

    def parts(changes: dict, split=split, tokenizer=tokenizer) -> set[str]:
        changed = copy.deepcopy(settings)
        for key, value in changes.items():
            set_key(changed, key, value)
        found = digest_mask(changed, split, tokenizer)
        return {name for name in plain if found[name] != plain[name]}

    assert parts({}, split=other) == {"data", "whole"}
    assert parts({}, tokenizer=gpt2_tokenizer) == {"vocabulary", "whole"}
    for key, value in (("data.truncation", "keep_end"), ("model.max_len", 33)):
        assert parts({key: value}) == {"truncation", "whole"}
    for key, value in (
        ("train_user_turn_mask_step", 0.25), ("schedule_steps", 11), ("mask_schedule.normalize", "turn"),
        ("mask_schedule.trained_role", "user"), ("mask_schedule.last_turn_only", True), ("mask_schedule.speed", 2),
        ("mask_schedule.untrained", "refuse"), ("mask_schedule._target_", "x.y"),
    ):  # fmt: skip
        assert parts({key: value}) == {"schedule", "whole"}, key
    assert parts({"mask_schedule.alignment_every_n_steps": 7, "seed": 9, "steps": 11, "data.cache_dir": "x"}) == set()


def test_the_probe_is_the_same_whatever_the_run_and_about_as_large_as_said(settings, split, monkeypatch):
    order = np.random.Generator(np.random.PCG64(derive_seed("probe"))).permutation(len(split.tokens))
    for most, seed in itertools.product((1, 200, 10**6), (0, 7)):
        monkeypatch.setattr(data, "PROBE_TOKENS", most)
        settings |= {"seed": seed, "micro_batch_tokens": 64}
        batches = build_probe_batches(settings, split.tokens, torch.device("cpu"))
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
    code, _, err = dialog_trainer("mode=validate", run, "load_model_type=last")
    assert code == 2
    assert "pass allow_targets=[own_optimizers.Slow]" in err


def test_the_digest_of_the_data_knows_which_dialogues_are_left_out(settings, tokenizer):
    class Table:
        digest = "d"

    split = Split(Table(), Table())
    digests = [digest_mask(settings, split, tokenizer, out) for out in ((), {3, 1}, [1, 3], {1})]
    assert digests[1] == digests[2]
    assert len({digest["data"] for digest in digests}) == 3
    assert len({digest["schedule"] for digest in digests}) == 1

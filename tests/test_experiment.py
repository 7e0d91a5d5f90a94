"""Settings -> built objects: devices, classes by name, what each is called with."""

import copy

import pytest
import torch

from dialog_trainer import composition, experiment
from dialog_trainer.errors import ConfigError


@pytest.fixture
def settings(jsonl_folder):
    return copy.deepcopy(
        composition.composed(["data=dailydialog", f"data.path='{jsonl_folder}'", "model=gpt2_tiny", "steps=10"], None)
    ) | {"schedule_steps": 10}


@pytest.fixture
def machine(monkeypatch):
    """`machine(cuda=2, mps=False)` pretends to have two CUDA devices and no MPS."""

    def pretend(cuda: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("wanted", "cuda", "mps", "expected"),
    [
        ("auto", 0, False, "cpu"), ("auto", 0, True, "mps"), ("auto", 1, True, "cuda"), ("auto", 2, False, "cuda"),
        ("cpu", 2, True, "cpu"), ("mps", 1, True, "mps"), ("cuda", 1, False, "cuda"), ([1], 2, False, "cuda:1"),
    ],
)  # fmt: skip
def test_the_device_that_is_there(machine, wanted, cuda, mps, expected):
    machine(cuda, mps)
    assert experiment.device({"device": wanted}) == torch.device(expected)


@pytest.mark.parametrize(
    ("wanted", "cuda", "reason"),
    [
        ("cuda", 0, "device=cuda: there is no CUDA device; use device=auto or device=cpu"),
        ([0], 0, "device=[0]: there is no CUDA device; use device=auto or device=cpu"),
        ([2], 2, "device=[2]: there are 2 CUDA devices; use device=auto or device=cpu"),
        ("mps", 2, "device=mps: this machine has none; use device=auto or device=cpu"),
    ],
)
def test_a_device_that_is_not_there_is_named_with_what_to_use(machine, wanted, cuda, reason):
    machine(cuda, mps=False)
    with pytest.raises(ConfigError) as caught:
        experiment.device({"device": wanted})
    assert caught.value.faults == [reason]


def test_the_arithmetic_of_the_forward_pass_is_the_precision(settings):
    a = torch.ones(2, 2)
    with experiment.autocast(settings, torch.device("cpu"))():
        assert (a @ a).dtype == torch.float32
    with experiment.autocast(settings | {"precision": "bf16"}, torch.device("cpu"))():
        assert (a @ a).dtype == torch.bfloat16


@pytest.mark.parametrize(("asked", "cudnn_searches"), [(True, False), (False, True)])
def test_deterministic_kernels_are_asked_for(asked, cudnn_searches, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", asked)
    experiment.set_up_torch(asked)
    assert torch.are_deterministic_algorithms_enabled() is asked
    assert torch.backends.cudnn.benchmark is cudnn_searches


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
        ("data", {"colour": 1}, "data.colour=1: dialog_trainer.data.sources.DailyDialog takes no colour"),
        ("data", {"path": None}, "data: dialog_trainer.data.sources.DailyDialog: missing a required argument: 'path'"),
    ],
)  # fmt: skip
def test_what_a_class_does_not_take_is_named(settings, tiny_model, group, changes, reason):
    """A change to None takes the key away."""
    changed = {key: value for key, value in (settings[group] | changes).items() if changes.get(key, 0) is not None}
    settings[group] = changed
    build = {
        "optim": lambda: experiment.optimizer(settings, tiny_model),
        "scheduler": lambda: experiment.plan(settings, [1, 2], torch.device("cpu")),
        "mask_schedule": lambda: experiment.mask_schedule(settings),
        "data": lambda: experiment.dialogues(settings, "train", print),
    }[group]
    with pytest.raises(ConfigError) as caught:
        build()
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(reason)


def test_the_optimizer_gets_the_learning_rate_and_every_key(settings, tiny_model):
    settings["optim"] |= {"lr0": 0.25, "betas": [0.5, 0.75], "weight_decay": 0.125, "amsgrad": True}
    built = experiment.optimizer(settings, tiny_model)
    assert type(built) is torch.optim.AdamW
    [group] = built.param_groups
    assert {key: group[key] for key in ("lr", "betas", "weight_decay", "amsgrad", "eps")} == {
        "lr": 0.25, "betas": (0.5, 0.75), "weight_decay": 0.125, "amsgrad": True, "eps": 1e-8,
    }  # fmt: skip
    assert len(group["params"]) == len(list(tiny_model.parameters()))


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

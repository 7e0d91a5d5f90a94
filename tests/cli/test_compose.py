"""From a command line to the configuration of a run or of each run of a sweep, and every way in which it can be at error."""

import functools
import shlex

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dialog_trainer.cli.compose import compose_runs
from dialog_trainer.cli.overrides import parse_overrides, prepare_overrides, quote_text
from dialog_trainer.command_line import format_override
from dialog_trainer.config.schema import Config
from dialog_trainer.errors import ConfigError

pytestmark = pytest.mark.slow
TINY = ("data=chitchat", "model=gpt2_tiny")


@functools.cache
def job(*overrides: str, config_dir=None) -> Config:
    [run] = compose_runs(prepare_overrides([*TINY, *overrides]), config_dir, sweep=False)
    return run.config


def sweep_of(*overrides: str) -> list[Config]:
    return [run.config for run in compose_runs(prepare_overrides([*TINY, *overrides]), None, sweep=True)]


def errors(*overrides: str, sweep: bool = False, config_dir=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose_runs(prepare_overrides(list(overrides)), config_dir, sweep=sweep)
    return caught.value.errors


# Overrides that do not meet share a composition, which takes a tenth of a second.
@pytest.mark.parametrize(
    "overrides",
    [
        {
            "steps=7": ("steps", 7),
            "data.cache_dir='/a b/c=d'": ("data.cache_dir", "/a b/c=d"),
            "name='123'": ("name", "123"),
            "project= two runs ": ("project", " two runs "),
            "schedule_steps=null": ("schedule_steps", None),
            "optim.lr0=1e-3": ("optim.lr0", 1e-3),
            "optim.betas=[0.5,0.6]": ("optim.betas", [0.5, 0.6]),
            "+optim.amsgrad=true": ("optim.amsgrad", True),
            "device=[0]": ("device", [0]),
            "chat={temperature: 3}": ("chat.generation.temperature", 3),
            "metrics.max_new_tokens=7": ("metrics.generation.max_new_tokens", 7),
            "++metrics.beams=7": ("metrics.generation.beams", 7),
            "metrics.best={bleu4: 2}": ("metrics.best", {"bleu4": 2}),
            "mode=inspect": ("mode", "inspect"),
            "mask_schedule.last_turn_only=true": ("mask_schedule.last_turn_only", True),
        },
        {
            "++steps=7": ("steps", 7),
            'name="1,2"': ("name", "1,2"),
            "optim={lr0: 3}": ("optim.lr0", 3),
            "chat={generation: {top_p: 0.5}}": ("chat.generation.top_p", 0.5),
            "++metrics.best={bleu4: 2}": ("metrics.best", {"bleu4": 2}),
            "mask_schedule=constant": ("mask_schedule.end_weight", 0.1),
            "scheduler=linear": ("scheduler._target_", "dialog_trainer.training.learning_rate.linear"),
        },
        {
            "steps='70'": ("steps", 70),
            "optim=sgd": ("optim.momentum", 0.9),
            "optim.lr0='1e-3'": ("optim.lr0", 1e-3),
            "metrics.best.bleu2=3": ("metrics.best", {"bleu2": 3}),
        },
        {"steps=${batch_size}": ("steps", 60)},
    ],
)
def test_an_override_sets_its_key_and_no_other(overrides):
    expected = dict(overrides.values())
    plain, changed = job().flat(), job(*overrides).flat()
    chosen = tuple(
        f"{text.split('=')[0]}." for text in overrides if text.startswith(("mask_", "scheduler=", "optim=s"))
    )
    for key in plain.keys() | changed.keys():
        if key in expected or not key.startswith(chosen):
            assert changed[key] == (plain | expected)[key], key


def test_a_typed_dict_replaces_the_one_of_an_experiment_too():
    original = job("experiment=original", *TINY)
    assert original.metrics.best == {"bleu2": 0.1, "bleu4": 0.6, "nist2": 0.1, "nist4": 0.2}
    assert job("experiment=original", *TINY, "metrics.best={nist2: 1}").metrics.best == {"nist2": 1}


def test_the_order_of_a_group_and_its_key_does_not_matter():
    assert job("optim=sgd", "optim.momentum=0.5") == job("optim.momentum=0.5", "optim=sgd")


def test_what_is_typed_wins_over_an_experiment():
    config = job("steps=7", "experiment=demo_scratch", "optim=adam", "optim.lr0=0.5")
    assert (config.steps, config.batch_size) == (7, 16)
    assert config.optim.target == "torch.optim.Adam"
    assert config.optim.lr0 == 0.5


# Each override is at error by itself, and its line begins with what was typed.
ALONE = {
    "stepz=3": "there is no option stepz; did you mean steps?",
    "lr0=3": "there is no option lr0; did you mean optim.lr0?",
    "optim.lr=3": "there is no option optim.lr; write optim.lr0=<number>",
    "warmup_steps=3": "there is no option warmup_steps; did you mean scheduler.warmup_steps?",
    "truncation=split": "there is no option truncation; did you mean data.truncation?",
    "xyz=3": "there is no option xyz; --help shows all options",
    "epochs=3": "there is no option epochs; write steps=<updates>",
    "CUSTOM.train_data_path=x": "there is no option CUSTOM.train_data_path; write data=files data.train_data_path=",
    "scheduler_type=cosine": "there is no option scheduler_type; write scheduler=cosine",
    "optim.momentum=0.9": "there is no option optim.momentum; optim=sgd has it",
    "optim.amsgrad=true": "there is no option optim.amsgrad; to add it, write +optim.amsgrad=true",
    "mask_schedule.at=3": "there is no option mask_schedule.at; mask_schedule has trained_role, last_turn_only, ",
    "data.train_data_path=x": "there is no option data.train_data_path; data=files or data=jsonl has it",
    "metrics.best.bleu4=1": "there is no option metrics.best.bleu4; did you mean ",
    "steps=0": "must be a whole number from 1 to 10,000,000",
    "patience=null": "must be a whole number of at least 0 (0: never stop early)",
    "optim.lr0=abc": "must be a number above 0, or auto",
    "metrics.names=ppl": "must be a list of ppl, ",
    "name=123": "must be a text that is not empty (null: <name of the data>_chatbot); to pass a number as a text",
    "mode=reports": "must be train, resume, validate, report",
    "scheduler=cosin": "scheduler has no such choice; there are constant, cosine, linear; did you mean scheduler=cosine?",
    "optim=null": "optim has no such choice; there are adam, adamw, sgd",
    "optim=[adam,sgd]": "optim has no such choice; there are adam, adamw, sgd",
    "experiment=nope": "experiment has no such choice; there are demo, demo_scratch, laptop, mask_study, original",
    "experiment=null": "experiment has no such choice; there are demo, demo_scratch, laptop, mask_study, original",
    "~steps": "an option cannot be removed; set it to another value",
    "~optim": "an option cannot be removed; set it to another value",
    "~optim.eps=1e-8": "an option cannot be removed; set it to another value",
    "+steps=3": "a key can be added to data, optim, scheduler, mask_schedule, logger only; did you mean steps",
    "+xyz=3": "a key can be added to data, optim, scheduler, mask_schedule, logger only; --help shows all options",
    "+experiment=demo": "a key can be added to data, optim, scheduler, mask_schedule, logger only; ",
    "optim@other=adam": "a group cannot be put into another place with @",
    "seed=0,1": "several values need -m; to pass a list, write [a,b]; to pass a text with a comma, quote it",
    "optim=adam,sgd": "several values need -m; ",
    "seed=range(0,3)": "several values need -m; ",
    "optim=glob(*)": "several values need -m; ",
    "hydra.run.dir=x": "of Hydra's own, only hydra/launcher and hydra/sweeper can be set",
    "hydra.sweep.dir=x": "of Hydra's own, only ",
    "hydra.output_subdir=x": "of Hydra's own, only ",
    "hydra.mode=MULTIRUN": "of Hydra's own, only ",
    "hydra/launcher=nope": "is not used here, where a sweep must survive what stops it; hydra/launcher=local runs its jobs ",
    "steps=${nope}": "Interpolation key 'nope' not found",
    "steps": "cannot be read; write key=value, and quote ",
    "": "cannot be read; write key=value, and quote ",
    "=3": "cannot be read; write key=value, and quote ",
    "steps=[1,2": "cannot be read; write key=value, and quote ",
    "steps = 3": "cannot be read; write key=value, and quote ",
    "steps:3": "cannot be read; write key=value, and quote ",
    "a b=3": "cannot be read; write key=value, and quote ",
    "steps=extend_list(1)": "cannot be read; write key=value, and quote ",
}  # fmt: skip


# Of two values of one key Hydra takes the later: each of these is typed alone.
HIDDEN = ("steps=0", "steps=${nope}", "optim=[adam,sgd]", "optim=null", "hydra/launcher=nope")


@pytest.mark.parametrize("override", HIDDEN)
def test_a_error_is_named_with_what_was_typed_and_a_remedy(override):
    [error] = errors(*TINY, override)
    assert error.startswith(f"{override}: {ALONE[override]}")


def test_all_errors_of_a_command_line_are_named_together():
    reasons = {
        "data=nope": "data has no such choice; ",
        "model.layers=3": "there is no option model.layers; model=gpt2_tiny has it",
        "batch_size=0": "must be a whole number of at least 1",
        "model.max_len=7": "must be a whole number of at least 8",
        "data.path=/no/where": "there is no such folder",
    } | {text: reason for text, reason in ALONE.items() if text not in HIDDEN}
    found = errors(*reasons)
    assert len(found) == len(reasons)
    for text, reason in reasons.items():
        assert any(error.startswith(f"{text}: {reason}") for error in found), text


def test_errors_of_values_and_of_keys_that_only_a_chosen_group_has():
    assert sorted(
        errors(
            "data=jsonl",
            "data.validation_share=2",
            "data.hub_id=x",
            "model=gpt2_tiny",
            "model.layers=0",
            "data.test_data_path=[a,b]",
        )
    ) == [
        "data.hub_id=x: there is no option data.hub_id; data=dailydialog has it",
        "data.test_data_path=['a', 'b']: must be a text that is not empty or null (null: that of the training folder, if it has "
        "one); for several files, the folder that holds them, or a pattern such as 'chats/*.json'",
        "data.validation_share=2: must be a number above 0, below 1",
        "data=files needs data.train_data_path=<file, folder or pattern>",
        "model.layers=0: must be a whole number of at least 1",
    ]


@pytest.mark.parametrize(
    "text", ["/한국어/대화", "a=b", "it's", 'a\'b=c "d"', "a\\'b", "a\\", "{x", "x]", "a: b}", "(a"]
)
@pytest.mark.parametrize("key", ["data.cache_dir", "model.pretrained_model", "data.path"])
def test_a_path_that_hydra_cannot_read_is_quoted_for_it(key, text):
    [quoted] = prepare_overrides([f"{key}={text}"])
    [override], found = parse_overrides([quoted], {}, sweep=False)
    assert (override.key_or_group, override.value(), found) == (key, text, [])


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1))
@settings(deadline=None, max_examples=200)
def test_any_text_survives_its_quotes(text):
    [override], _ = parse_overrides([f"name={quote_text(text)}"], {}, sweep=False)
    assert override.value() == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1))
@example("12")
@example("null")
@example("/a/1e3")
@example("a\\")
@example("a\\\\'b\\c")
@settings(deadline=None, max_examples=200)
def test_what_a_run_prints_can_be_typed_as_it_stands(text):
    [word] = shlex.split(format_override("name", text))
    [override], _ = parse_overrides(prepare_overrides([word]), {}, sweep=False)
    assert override.value() == text


@pytest.mark.parametrize(
    "text", ["steps=[1,2", "name=a,b=c", "name", "seed=a=b", "data.path='a b'", "name=a", "optim=sgd"]
)
def test_nothing_else_is_quoted(text):
    assert prepare_overrides([text]) == [text]


def test_each_combination_of_a_sweep_is_a_job_of_its_own():
    jobs = sweep_of("seed=0,1", "optim=glob(a*)", "train_user_turn_mask_step=range(0,1,0.5)")
    made = [(s.seed, s.optim.target.split(".")[-1], s.train_user_turn_mask_step) for s in jobs]
    assert made == [(seed, name, at) for seed in (0, 1) for name in ("Adam", "AdamW") for at in (0, 0.5)]


def test_a_sweep_over_dicts_and_added_keys():
    jobs = sweep_of("metrics.best={bleu4: 1},{nist2: 1}", "+optim.amsgrad=true,false")
    assert [(s.metrics.best, s.optim.arguments["amsgrad"]) for s in jobs] == [
        ({"bleu4": 1}, True), ({"bleu4": 1}, False), ({"nist2": 1}, True), ({"nist2": 1}, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["mask_schedule=linear,step", "mask_schedule.start=0.9,0.1"], ["mask_schedule.start=0.9: must be at most mask_schedule.end=0.75", "mask_schedule.start=0.9: there is no option", "mask_schedule.start=0.1: there is no option"]),
        (["seed=0,-1,1,-2"], ["seed=-1: must be a whole", "seed=-2: must be a whole"]),
        (["optim=adam,nope,sgd"], ["optim=nope: optim has no such choice"]),
        # The momentum is there for one of the two optimizers only.
        (["optim=sgd,adam", "optim.momentum=0.5"], ["optim.momentum=0.5: there is no option"]),
        (["model.heads=2,3", "model.width=8,9"], ["model.width=9: must be a multiple of model.heads=2", "model.width=8: must be a multiple of model.heads=3"]),
        (["steps=interval(1,2)", "optim=glob(z*)", "seed=glob(*)"], ["steps=interval(1,2): is not a discrete sweep; list the values", "optim=glob(z*): fits no choice of a group", "seed=glob(*): fits no choice of a group"]),
        (["nope=1,2"], ["nope=1: there is no option", "nope=2: there is no option"]),
        (["mode=resume,validate", "resume_model_dir=x"], ["mode=resume: works on one saved run", "mode=validate: works on one saved run"]),
        (["seed=0,1", "steps=0"], ["steps=0: must be a whole"]),
        (["seed=range(0,3)", "seed=5", "steps=0"], ["seed=5: seed=range(0,3) is typed too", "steps=0: must be a whole"]),
        (["steps=2,3", "seed=0", "steps=3,4", "seed=1"], ["steps=3,4: steps=2,3 is typed too"]),
    ],
)  # fmt: skip
def test_the_errors_of_all_combinations_are_named_once_each(typed, expected):
    found = errors(*TINY, *typed, sweep=True)
    assert len(found) == len(expected)
    for error, start in zip(found, expected, strict=True):
        assert error.startswith(start)


def test_a_list_takes_the_place_of_a_value_typed_before():
    assert [one.steps for one in sweep_of("steps=9", "steps=2,3")] == [2, 3]


def own_groups(folder):
    for name, text in {
        "experiment/mine": "# @package _global_\ndefaults:\n  - override /optim: steep\nsteps: 3\n",
        "optim/steep": "_target_: torch.optim.SGD\nlr0: 0.5\nnesterov: true\nmomentum: 0.1\nweight_decay: 0.0\n",
        "experiment/bad": "# @package _global_\nstepz: 3\nbatch_size: 0\n",
        "experiment/resumes": "# @package _global_\nmode: resume\nresume_model_dir: x\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(text)
    return str(folder)


@pytest.mark.parametrize("folder", ["plain", "a b=c,d", "한국 it's"])
def test_a_folder_of_own_groups(tmp_path, folder):
    config = job("experiment=mine", config_dir=own_groups(tmp_path / folder))
    assert config.steps == 3
    optim = {"_target_": "torch.optim.SGD", "lr0": 0.5, "nesterov": True, "momentum": 0.1, "weight_decay": 0.0}
    assert config.to_dict()["optim"] == optim


def test_the_errors_of_a_folder_of_own_groups(tmp_path):
    own = own_groups(tmp_path)
    assert errors(*TINY, "experiment=bad", config_dir=own) == [
        "batch_size=0: must be a whole number of at least 1",
        "stepz=3: there is no such option",
    ]
    assert errors(*TINY, "experiment=resumes", config_dir=own) == [
        "mode=resume: works on one saved run; type it by itself, not in a sweep or a file"
    ]
    assert errors(*TINY, "experiment=none", config_dir=own) == [
        "experiment=none: experiment has no such choice; there are bad, demo, demo_scratch, laptop, mask_study, mine, original, resumes"
    ]

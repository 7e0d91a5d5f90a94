"""The settings of a saved run, read as a stranger's data, with what was typed laid on them. Nothing is loaded here."""

import copy

import pytest
import yaml

from dialog_trainer.cli import compose
from dialog_trainer.cli.compose import compose_runs
from dialog_trainer.cli.conf import CONF
from dialog_trainer.cli.overrides import prepare_overrides, quote_text
from dialog_trainer.cli.saved_config import find_mode, inexact_changes, load_changed_job, read_saved
from dialog_trainer.config.frozen import flatten, nest, set_key
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import settings as settings_of
from dialog_trainer.config.versions import absent_values
from dialog_trainer.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.slow
SETTINGS = settings_of(Config)

# As a run keeps them: composed from these, with the planned length filled in.
OVERRIDES = ["data=chitchat", "model=gpt2_tiny", "optim.lr0=0.5", "scheduler.warmup_steps=7", "steps=50"]


@pytest.fixture(scope="module")
def kept() -> dict:
    [run] = compose_runs(OVERRIDES, None, sweep=False)
    return run.config.replace({"schedule_steps": 50}).to_dict()


@pytest.fixture
def run(tmp_path, kept):
    folder = tmp_path / "a run = 한국"
    folder.mkdir()
    write(folder, kept)
    return folder


def write(folder, settings):
    (folder / "args.yaml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")


def resume(run, *typed, mode="resume", config_dir=None):
    typed = prepare_overrides(list(typed))
    return load_changed_job([f"mode={mode}", f"resume_model_dir={quote_text(run)}", *typed], config_dir)


def refused(run, *typed, mode="resume"):
    with pytest.raises(ConfigError) as caught:
        resume(run, *typed, mode=mode)
    return caught.value.errors


@pytest.mark.parametrize(
    ("typed", "mode"),
    [
        ([], None), (["steps=3"], None), (["mode=train"], None), (["mode=nope"], None), (["+mode=resume"], None),
        (["mode=resume,validate"], None), (["mode=[resume]"], None), (["xmode=resume"], None), (["mode"], None),
        (["mode=resume"], "resume"), (["mode=validate"], "validate"), (["mode=chat"], "chat"),
        (["mode='resume'"], "resume"), (["++mode=resume"], "resume"), (["steps=[", "mode=chat"], "chat"),
        (["mode=train", "mode=resume"], "resume"), (["mode=resume", "mode=train"], None),
    ],
)  # fmt: skip
def test_the_mode_that_was_typed(typed, mode):
    assert find_mode(typed) == mode


def test_without_changes_the_saved_settings_are_those_of_the_run(run, kept):
    changed = resume(run)
    assert changed.changes == ()
    assert inexact_changes(changed.changes) == []
    assert changed.config.to_dict() == kept | {"mode": "resume", "resume_model_dir": str(run)}


def test_the_digest_that_a_run_keeps_for_people_is_no_option(run, kept):
    write(run, kept | {"digest": {"data": "0123", "whole": "4567"}})
    changed = resume(run)
    assert changed.changes == ()
    assert changed.config.to_dict() == kept | {"mode": "resume", "resume_model_dir": str(run)}


def test_nothing_of_the_defaults_of_today_comes_in(run, kept, monkeypatch, tmp_path):
    """The defaults changed since: a run keeps its own, also what all choices of a typed group have."""
    conf = tmp_path / "conf"
    for path in CONF.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        for before, after in (("batch_size: 60", "batch_size: 3"), ("warmup_steps: 200", "warmup_steps: 9"), ("momentum: 0.9", "momentum: 0.1")):  # fmt: skip
            text = text.replace(before, after)
        copied = conf / path.relative_to(CONF)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(text, encoding="utf-8")
    monkeypatch.setattr(compose, "CONF", conf)
    assert compose.compose_tree([], None).tree["batch_size"] == 3
    assert resume(run, "seed=1").changes == (("seed", "0", "1"),)
    changed = resume(run, "scheduler=linear", "steps=60")
    assert changed.config.to_dict()["scheduler"] == {
        "_target_": "dialog_trainer.training.learning_rate.linear", "warmup_steps": 7, "lrf": 0.1,
    }  # fmt: skip
    assert {key for key, _, _ in changed.changes} == {"scheduler._target_", "steps"}
    assert changed.config.batch_size == kept["batch_size"]


SCHEDULER = "scheduler._target_", "dialog_trainer.training.learning_rate.cosine"


@pytest.mark.parametrize(
    ("typed", "changes"),
    [
        (["steps=60"], [("steps", "50", "60")]),
        (["steps=50"], []),
        (["++steps=60"], [("steps", "50", "60")]),
        (["steps=60", "steps=70"], [("steps", "50", "70")]),
        (["optim.lr0=0.1", "patience=9"], [("patience", "5", "9"), ("optim.lr0", "0.5", "0.1")]),
        (["save_every_n_steps=5"], [("save_every_n_steps", "null", "5")]),
        (["max_grad_norm=null"], [("max_grad_norm", "1.0", "null")]),
        (["metrics.best={nist2: 1}"], [("metrics.best", "{'bleu2': 1.0}", "{'nist2': 1.0}")]),
        (["metrics.names=[ppl,bleu2]"], [("metrics.names", "['ppl', 'bleu2', 'bleu4', 'nist2', 'nist4']", "['ppl', 'bleu2']")]),
        # A group brings its own, and keeps what all its choices have, as the saved warm-up of 7.
        (["scheduler=constant"], [(*SCHEDULER, "dialog_trainer.training.learning_rate.constant"), ("scheduler.lrf", "0.1", "(none)")]),
        (["scheduler.warmup_steps=7", "scheduler=linear"], [(*SCHEDULER, "dialog_trainer.training.learning_rate.linear")]),
        (["optim=adamw"], [("optim.lr0", "0.5", "auto")]),
        (["metrics=response", "mask_schedule=step"], []),
        (["mask_schedule.normalize=turn"], [("mask_schedule.normalize", "token", "turn")]),
        (["train_user_turn_mask_step=0.50", "optim.lr0='0.5'", "model.dropout=0.1"], []),
        (["metrics.max_new_tokens=7"], [("metrics.generation.max_new_tokens", "40", "7")]),
        (["patience=0"], [("patience", "5", "0")]),
        (["mask_schedule=constant", "mask_schedule.alignment_every_n_steps=5"], [("mask_schedule._target_", "dialog_trainer.masking.schedules.step", "dialog_trainer.masking.schedules.constant"), ("mask_schedule.end_weight", "(none)", "0.1"), ("mask_schedule.alignment_every_n_steps", "null", "5")]),
        # What says what to do with the run is no part of it.
        (["load_model_type=last", "split=test", "chat.temperature=1", "port=10001"], []),
        (["data.cache_dir=elsewhere"], [("data.cache_dir", "null", "elsewhere")]),
        (["processes=2"], [("processes", "1", "2")]),
    ],
)  # fmt: skip
def test_what_is_typed_is_laid_on_the_saved_settings(run, kept, typed, changes):
    changed = resume(run, *typed)
    assert sorted(changed.changes) == sorted(changes)
    before = flatten(kept, frozenset({"metrics.best"}))
    untouched = before.keys() - {key for key, _, _ in changes}
    asked = ("schema_version", "mode", "resume_model_dir", "load_model_type", "split", "chat", "port")
    for key in untouched:
        if not key.startswith(asked):
            assert changed.config.flat()[key] == before[key], key


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (["steps=60", "patience=9", "optim.lr0=1", "scheduler=linear", "metrics.max_dialogues=3", "schedule_steps=60"], []),
        (["mask_schedule=linear", "mask_schedule.trained_role=user", "mask_schedule.alignment_every_n_steps=5"], []),
        (["data.workers=1", "data.cache_dir=elsewhere", "save_every_n_steps=3", "train_user_turn_mask_step=1"], []),
        (["batch_size=3", "seed=1", "deterministic=false"], ["batch_size", "seed", "deterministic"]),
        (["device=cpu", "precision=bf16", "micro_batch_tokens=256"], ["device", "precision", "micro_batch_tokens"]),
        (["model.max_len=64", "model.dropout=0.5"], ["model.dropout", "model.max_len"]),
        (["data.truncation=keep_end"], ["data.truncation"]),
    ],
)  # fmt: skip
def test_what_continues_but_not_exactly(run, typed, keys):
    assert sorted(inexact_changes(resume(run, *typed).changes)) == sorted(keys)


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        (["model.layers=3"], "model.layers: 2 -> 3 cannot change: the saved weights have that shape."),
        (["model.vocab_size=300"], "model.vocab_size: 2048 -> 300 cannot change: the saved weights have"),
        (["model.pretrained_model=gpt2"], "model.pretrained_model: null -> gpt2 cannot change: the saved"),
        (["optim=sgd"], "optim._target_: torch.optim.AdamW -> torch.optim.SGD cannot change: the saved optimizer"),
        (["+optim.amsgrad=true"], "optim.amsgrad: (none) -> true cannot change: the saved optimizer"),
        (["experiment=demo"], "experiment=: not on a saved run"),
        (["name=other"], "name=other: the run stays in its folder; leave it out"),
        (["project=elsewhere"], "project=elsewhere: the run stays in its folder; leave it out"),
        (["data.cache_dir=${oc.env:HOME}"], "data.cache_dir=${oc.env:HOME}: a reference (${...}) has no meaning on a saved run"),
        (["stepz=60"], "stepz=60: there is no option stepz; did you mean steps?"),
        (["optim.momentum=0.5"], "optim.momentum=0.5: there is no option optim.momentum; optim=sgd has it"),
        (["scheduler=nope"], "scheduler=nope: scheduler has no such choice; there are constant, cosine, linear"),
        (["steps=0"], "steps=0: must be a whole number from 1 to 10,000,000"),
        (["model.max_len=512"], "model.positions=256: must be at least model.max_len=512"),
        (["steps=60,70"], "steps=60,70: several values need -m"),
        (["hydra.run.dir=x"], "hydra.run.dir=x: of Hydra's own, only"),
        (["hydra/launcher=local"], "hydra/launcher=local: is Hydra's, which only starts new runs"),
        (["~steps"], "~steps: an option cannot be removed"),
        (["+chat.top_k=3"], "+chat.top_k=3: a key can be added to data, optim, scheduler, mask_schedule, logger only"),
        (["steps=[1"], "steps=[1: cannot be read"),
        (["mode=resume", "resume_model_dir=123"], "resume_model_dir=123: must be a text that is not empty"),
        (["resume_model_dir=null"], "mode=resume needs a run: pass resume_model_dir=<run folder>"),
    ],
)  # fmt: skip
def test_what_is_refused(run, typed, reason):
    [error] = refused(run, *typed)
    assert error.startswith(reason)
    if "->" in reason:
        assert error.endswith(f"and model.pretrained_model={quote_text(run / 'weights/last')}")


def test_all_that_is_refused_is_named_together(run):
    found = refused(
        run, "stepz=1", "steps=[1", "model.width=64", "optim=adam", "batch_size=0", "experiment=demo", "seed=1,2"
    )
    starts = (
        "stepz=1:",
        "steps=[1:",
        "model.width: 128 -> 64",
        "optim._target_:",
        "batch_size=0:",
        "experiment=:",
        "seed=1,2:",
    )
    assert len(found) == len(starts)
    assert all(any(error.startswith(start) for error in found) for start in starts)


@pytest.mark.parametrize("mode", ["validate", "chat"])
def test_a_mode_that_trains_nothing_takes_what_a_resume_refuses(run, mode):
    assert (
        resume(run, "model.dropout=0", "batch_size=3", "optim=sgd", mode=mode).config.optim.arguments["momentum"] == 0.9
    )


def test_without_a_folder_the_mode_and_every_other_fault_are_named():
    with pytest.raises(ConfigError) as caught:
        load_changed_job(["mode=chat", "steps=[1", "~optim"], None)
    assert [error.split(":")[0] for error in caught.value.errors] == ["steps=[1", "~optim", "mode=chat needs a run"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no run (no args.yaml); pass the folder that training printed"),
        (b"", "does not hold the configuration of a run"),
        (b"- 1\n- 2\n", "does not hold the configuration of a run"),
        (b"a: [1", "cannot be read as plain YAML: "),
        (b"\xff\xfe", "cannot be read as plain YAML: "),
        (b"a: !!python/object/apply:os.system ['true']\n", "line 1: the tag !!python/object/apply:os.system is refused here"),
        (b"a: 1\nb: !!timestamp text\n", "cannot be read as plain YAML: line 2: the tag !!timestamp is refused here"),
        (b"a: !!binary x\n", "line 1: the tag !!binary is refused here"),
        (b"a: !!int x\n", "line 1: the tag !!int is refused here"),
        (b"a: &a [1]\nb: *a\n", "line 2: an alias (*name) is refused here"),
        (b"a: 1\na: 2\n", "line 2: the key a stands twice in its dict"),
        (b"a: " + b"[" * 100_000, "line 1: is nested deeper than 30 levels"),
        (b"a: " + b"9" * 5000, "line 1: a number has more than 400 digits"),
        (b"a: [" + b"1," * 20_000 + b"]", "line 1: holds more than 10,000 values"),
        (b"a: " + b"x" * 300_000, "is larger than 262,144 bytes"),
        (b"a: 1\n", "  - a: there is no such option\n"),
        (b"a: 1\n", "  - seed: is missing\n"),
        (b"a: 1\n", "  - optim: is missing\n"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_settings(run, content, message):
    path = run / "args.yaml"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_saved(run)
    assert message in str(caught.value)
    assert str(run) in str(caught.value)


@pytest.mark.parametrize("folder", ["nowhere", "x" * 300, "a\x00b", ""])
def test_a_folder_that_is_no_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"resume_model_dir=.*: (there is no such folder|holds no run)"):
        resume(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.cache_dir", "${oc.env:HOME}", "data.cache_dir: '${' is refused here"),
        ("optim.${x}", 1, "optim.${x}: '${' is refused here"),
        ("metrics.best", {"${x}": 1}, "metrics.best: '${' is refused here"),
        ("metrics.names", ["${x}"], "metrics.names: '${' is refused here"),
        ("model.unknown", 1, "model.unknown: there is no such option"),
        ("data", "chitchat", "data: is missing"),
        ("chat", None, "chat: is missing"),
        ("optim", [1], "optim: is missing"),
    ],
)
def test_settings_of_a_stranger_are_checked(run, kept, key, value, message):
    settings = copy.deepcopy(kept)
    set_key(settings, key, value)
    write(run, settings)
    with pytest.raises(CheckpointError) as caught:
        read_saved(run)
    assert f"  - {message}" in str(caught.value)


STRANGE = {"processes": 64, "port": 2222, "data.workers": 64, "data.cache_dir": "/elsewhere", "device": [0, 1]}


@pytest.mark.parametrize(
    ("mode", "told"),
    [("resume", "device processes port data.workers data.cache_dir"), ("validate", "device processes port data.workers data.cache_dir"), ("chat", "")],
)  # fmt: skip
def test_a_saved_run_starts_no_processes_and_writes_nowhere_else(run, kept, mode, told):
    settings = copy.deepcopy(kept)
    for key, value in STRANGE.items():
        set_key(settings, key, value)
    write(run, settings)
    changed = resume(run, mode=mode)
    today = flatten(kept)
    assert {key: changed.config.flat()[key] for key in STRANGE} == {key: today[key] for key in STRANGE}
    assert {key for key in STRANGE if f"{key}=" in " ".join(changed.notes)} == set(told.split())
    typed = [f"{key}={value}" for key, value in STRANGE.items()]
    asked = resume(run, *typed, mode=mode)
    assert {key: asked.config.flat()[key] for key in STRANGE} == STRANGE
    assert asked.notes == ()


@pytest.mark.parametrize("key", [key for key in SETTINGS if "." not in key and key not in absent_values(Config)])
def test_no_key_of_the_top_level_may_be_missing(run, kept, key):
    write(run, {name: value for name, value in kept.items() if name != key})
    with pytest.raises(CheckpointError, match=f"  - {key}: is missing"):
        read_saved(run)


@pytest.mark.parametrize(
    "key",
    [key for key, one in SETTINGS.items() if "." in key and not one.meta.optional and key not in absent_values(Config)],
)
def test_no_key_that_every_choice_of_a_group_has_may_be_missing(run, kept, key):
    flat = flatten(kept, frozenset({"metrics.best"}))
    del flat[key]
    write(run, nest(flat))
    assert f"{key}: is missing; every choice of its group has it" in refused(run)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("optim._target_", "os.system", "optim._target_=os.system: not one of "),
        ("data._target_", "os.system", "data._target_=os.system: not one of "),
        ("steps", "many", "steps=many: must be a whole number from 1 to 10,000,000"),
        ("optim.lr0", None, "optim.lr0=null: must be a number above 0, or auto"),
    ],
)
def test_values_of_a_stranger_pass_the_same_rules(run, kept, key, value, error):
    """A class that the file itself allows is not allowed: only the command line may."""
    settings = copy.deepcopy(kept) | {"allow_targets": ["os.system"]}
    set_key(settings, key, value)
    write(run, settings)
    assert any(found.startswith(error) for found in refused(run))


def test_the_command_line_may_allow_a_class_of_the_run(run, kept):
    settings = copy.deepcopy(kept)
    settings["optim"]["_target_"] = "mine.Optimizer"
    write(run, settings | {"allow_targets": ["mine.Optimizer"]})
    assert any("pass allow_targets=[mine.Optimizer]" in error for error in refused(run))
    assert resume(run, "allow_targets=[mine.Optimizer]").changes == ()

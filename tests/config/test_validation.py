"""Checks across fields, and what a configuration needs of a machine."""

import itertools

import pytest

from dialog_trainer.config import machine, paths
from dialog_trainer.config.commands import BUILT_IN
from dialog_trainer.config.default_names import resolve_names
from dialog_trainer.config.frozen import flatten, nest
from dialog_trainer.config.groups import OpenGroup
from dialog_trainer.config.hints import hint_for_choice, hint_for_key
from dialog_trainer.config.machine import count_processes, find_process_errors, needs_hub
from dialog_trainer.config.schema import Config
from dialog_trainer.config.table import all_settings, groups
from dialog_trainer.config.validation import collect_notes, validate
from dialog_trainer.errors import ConfigError
from dialog_trainer.metrics.registry import SCORE_NAMES
from tests.config.test_schema import RANGES
from tests.helpers.configs import conf_tree

OPEN_GROUPS = [key for key, record in groups(Config).items() if issubclass(record, OpenGroup)]
TREE = conf_tree()


def changed(values: dict, tree: dict = TREE) -> dict:
    return nest(flatten(tree, frozenset({"metrics.best"})) | values)


def errors(values: dict, tree: dict = TREE) -> list[str]:
    try:
        validate(changed(values, tree))
    except ConfigError as error:
        return error.errors
    return []


def config(**values) -> Config:
    return validate(changed({key.replace("__", "."): value for key, value in values.items()}))


@pytest.mark.parametrize(("key", "value"), [(key, bad) for key, (_, bads) in RANGES.items() for bad in bads[:2]])
def test_a_value_invalid_causes_no_other_error(key, value):
    assert len(errors({key: value})) == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"foo": 1}, ["foo=1: there is no such option"]),
        ({"model.foo": 1, "chat.bar": 2}, ["chat.bar=2: there is no such option", "model.foo=1: there is no such option"]),
        ({"mode": "inspect", "resume_model_dir": "x"}, ["resume_model_dir=x: goes with mode=resume, validate, chat or export, not with mode=inspect"]),
        ({"mode": "inspect"}, []),
        ({"mask_schedule._target_": "dialog_trainer.masking.schedules.linear", "mask_schedule.start_weight": 1, "mask_schedule.end_weight": 0, "mask_schedule.start": 0.5, "mask_schedule.end": 0.25}, ["mask_schedule.start=0.5: must be at most mask_schedule.end=0.25"]),
        ({"mask_schedule._target_": "dialog_trainer.masking.schedules.linear", "mask_schedule.start_weight": 1, "mask_schedule.end_weight": 0, "mask_schedule.start": 0.5, "mask_schedule.end": 0.5}, []),
        ({"mask_schedule._target_": "dialog_trainer.masking.schedules.piecewise", "mask_schedule.points": [[0, 1], [0.5, 0.25], [0.5, 0], [1, 0]]}, []),
        ({"mask_schedule._target_": "dialog_trainer.masking.schedules.piecewise", "mask_schedule.points": [[0.5, 1], [0.25, 0]]}, ["mask_schedule.points[1]=[0.25, 0.0]: comes after progress 0.5; order the points by progress"]),
        ({"mask_schedule._target_": "dialog_trainer.masking.schedules.piecewise", "mask_schedule.points": [[-0.5, 1], [0, 1.5], [0.25, 1, -1], [2, 0]]}, [f"mask_schedule.points[{place}]={point}: progress and weights must be from 0 to 1" for place, point in ((0, [-0.5, 1.0]), (1, [0.0, 1.5]), (2, [0.25, 1.0, -1.0]), (3, [2.0, 0.0]))]),
        ({"mask_schedule._target_": "dialog_trainer.masking.schedules.piecewise", "mask_schedule.points": [[0, float("nan")]]}, ["mask_schedule.points[0]=[0.0, nan]: progress and weights must be from 0 to 1"]),
        ({"mask_schedule._target_": "dialog_trainer.masking.schedules.piecewise", "mask_schedule.points": [[0, 1], [0.5, 0, 0], [1, 1]], "steps": 8}, ["mask_schedule: no turn carries weight at step 4 of 8; nothing would be trained but ends of dialogues: give one role weight"]),
        ({"mask_schedule._target_": "dialog_trainer.masking.schedules.piecewise", "mask_schedule.points": [[0, 1], [0.5, 0, 0], [1, 1]], "steps": 8, "schedule_steps": 7}, []),
        ({"resume_model_dir": "x"}, ["resume_model_dir=x: goes with mode=resume, validate, chat or export, not with mode=train"]),
        ({"mode": "resume"}, ["mode=resume needs a run: pass resume_model_dir=<run folder>"]),
        ({"mode": "validate"}, ["mode=validate needs a run: pass resume_model_dir=<run folder>"]),
        ({"mode": "chat"}, ["mode=chat needs a run: pass resume_model_dir=<run folder>"]),
        ({"mode": "chat", "resume_model_dir": "x"}, []),
        ({"metrics.names": ["ppl"]}, ["metrics.best={'bleu2': 1.0}: bleu2 is not computed; add it to metrics.names"]),
        ({"metrics.best": {"bleu2": 1, "bleu4": 1, "nist5": 1}}, ["metrics.best={'bleu2': 1.0, 'bleu4': 1.0, 'nist5': 1.0}: nist5 is not computed; add it to metrics.names"]),
        ({"metrics.best": {"ppl": 1, "bleu2": 1}}, ["metrics.best={'ppl': 1.0, 'bleu2': 1.0}: a lower ppl is better; give it a weight below 0"]),
        ({"metrics.best": {"ppl": -1}}, []),
        ({"metrics.names": ["length"], "metrics.best": {"length": 1}}, ["metrics.best={'length': 1.0}: no value of length is better than another; leave it out"]),
        ({"model.adapter": {"method": "lora"}, "model.pretrained_model": "gpt2"}, [f"model.adapter.{name}: is missing; model/adapter=lora has it" for name in ("alpha", "dropout", "rank", "targets")]),
        ({"model.adapter": {"method": "lora", "rank": 4, "alpha": 8, "dropout": 0.0, "targets": []}, "parallel": "fsdp"}, ["model/adapter=lora: a model from scratch has nothing to adapt; pass model.pretrained_model", "parallel=fsdp: not with model/adapter=lora, whose gradients are small; use parallel=ddp"]),
        ({"model.max_len": 300}, ["model.positions=256: must be at least model.max_len=300"]),
        ({"model.max_len": 256}, []),
        ({"micro_batch_tokens": 127}, ["micro_batch_tokens=127: must be at least model.max_len=128"]),
        ({"micro_batch_tokens": 128}, []),
        ({"metrics.generation.batch_tokens": 127}, ["metrics.generation.batch_tokens=127: must be at least model.max_len=128"]),
        ({"metrics.generation.max_new_tokens": 126, "chat.generation.max_new_tokens": 126}, []),
        ({"metrics.generation.max_new_tokens": 127}, ["metrics.generation.max_new_tokens=127: must be at most 126, so that model.max_len=128 has room for a context and the reply"]),
        ({"chat.generation.max_new_tokens": 127}, ["chat.generation.max_new_tokens=127: must be at most 126, so that model.max_len=128 has room for a context and the reply"]),
        ({"model.heads": 3}, ["model.width=128: must be a multiple of model.heads=3"]),
        ({"model.heads": 0, "model.width": 3}, ["model.heads=0: must be a whole number of at least 1"]),
        ({"model.pretrained_model": "./nowhere"}, ["model.pretrained_model=./nowhere: there is no such folder; pass a folder or a hub id as gpt2"]),
        ({"model.pretrained_model": "a/b/c"}, ["model.pretrained_model=a/b/c: there is no such folder; pass a folder or a hub id as gpt2"]),
        ({"model.pretrained_model": "owner/name"}, []),
        ({"chat.generation.decoding": "beam"}, ["chat.generation.decoding=beam: not in a chat, which writes as it generates; use greedy or sample"]),
        ({"metrics.generation.max_new_tokens": None}, ["metrics.generation.max_new_tokens=null: must be a whole number of at least 1; null is for a chat alone"]),
        ({"metrics.names": ["ppl", "blue2"], "metrics.best": {"ppl": -1}}, ["metrics.names=['ppl', 'blue2']: must be a list of " + ", ".join(SCORE_NAMES) + "; did you mean bleu2?"]),
        ({"metrics.best": {"blue4": 1}}, ["metrics.best={'blue4': 1.0}: must be a dict of scores and weights, as {bleu2: 1}; scores: " + ", ".join(SCORE_NAMES) + "; did you mean bleu4?"]),
        ({"metrics.protocol": "original", "metrics.names": ["bleu2", "nist5"]}, ["metrics.names: nist5 is no score of metrics=original; it has ppl, ppl_word, ppl_byte, bleu2, bleu4, nist2, nist4"]),
        ({"compile": True, "activation_checkpointing": True}, ["compile=true: not with activation_checkpointing=true, within which torch compiles nothing; use compile=false"]),
        ({"data.cache_dir": "~/x"}, ["data.cache_dir=~/x: '~' is not your home here; type $HOME"]),
        ({"compare_with": "x"}, ["compare_with=x: goes with mode=validate"]),
    ],
)  # fmt: skip
def test_fields_that_do_not_go_together(values, expected):
    assert sorted(errors(values)) == expected


@pytest.mark.parametrize("key", ["project", "name"])
@pytest.mark.parametrize("value", ["..", "../x", "a/../b", "a:b", "a\nb", "a\x00b", "a\x1fb", "a\x7fb", "a\x85b"])
def test_a_name_holds_no_way_up_no_colon_and_no_control_character(key, value):
    assert f"{key}={value!r}: must not hold '..', ':' or control characters" in errors({key: value})


@pytest.mark.parametrize("value", ["a/b", "/a", "a/", "a\\b", ".", "/"])
def test_a_name_is_one_part_of_a_path(value):
    assert f"name={value}: must be one path part; put folders into project" in errors({"name": value})


@pytest.mark.parametrize(
    ("value", "fits"),
    [("a" * 240, True), ("a" * 241, False), ("가" * 80, True), ("가" * 81, False), ("a" * 300, False)],
)
@pytest.mark.parametrize("key", ["project", "name", "data.cache_dir"])
def test_a_part_of_a_path_leaves_room_for_a_number(key, value, fits):
    expected = [] if fits else [f"{key}={value[:30]}...: a part of a path may have at most 240 bytes in UTF-8"]
    assert errors({key: value}) == expected


@pytest.mark.parametrize("key", ["project", "name", "data.cache_dir"])
def test_a_lone_surrogate_is_no_text(key):
    assert errors({key: "a\ud800"}) == [f"{key}='a\\ud800': is not valid text"]


@pytest.mark.parametrize("key", ["project", "data.cache_dir"])
def test_a_file_in_the_way_of_a_folder(key, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deeper" / "still"):
        assert errors({key: str(path)}) == [
            f"{key}={path}: {tmp_path / 'file'} is a file, not a folder; choose another"
        ]
    assert errors({key: str(tmp_path / "new" / "deeper")}) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("key", ["project", "data.cache_dir"])
def test_a_folder_that_cannot_be_written(key, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(paths.os, "access", lambda path, mode: asked.append(path) or path != tmp_path)
    path = tmp_path / "new"
    assert errors({key: str(path)}) == [
        f"{key}={path}: {tmp_path} cannot be written; choose another or change its permissions"
    ]
    assert tmp_path in asked


@pytest.mark.parametrize("mode", ["train", "inspect"])
def test_what_writes_into_the_project_needs_it(mode, tmp_path):
    (tmp_path / "file").touch()
    [error] = errors({"mode": mode, "project": str(tmp_path / "file")})
    assert error.endswith("is a file, not a folder; choose another")


@pytest.mark.parametrize("mode", [name for name, command in BUILT_IN.items() if command.works_on_saved_run])
def test_a_run_that_is_there_needs_no_project(mode, tmp_path):
    (tmp_path / "file").touch()
    assert errors({"mode": mode, "resume_model_dir": "x", "project": str(tmp_path / "file")}) == []


def test_files_of_own_dialogues_are_looked_for(tmp_path):
    file = tmp_path / "a b.jsonl"
    file.touch()
    tree = conf_tree(data="jsonl")
    assert errors({}, tree) == ["data=files needs data.train_data_path=<file, folder or pattern>"]
    for good in (file, tmp_path, tmp_path / "*.jsonl"):
        assert errors({"data.train_data_path": str(good)}, tree) == []
    assert errors({}, conf_tree(data="hub")) == ["data=hub needs data.id=<owner/name, or a folder with its files>"]
    for bad, kind in ((tmp_path / "*.json", "no file has such a name"), (tmp_path / "no", "does not exist"), ("x" * 300, "cannot be read (File name too long)")):  # fmt: skip
        splits = ("train", "validation", "test")
        assert errors({f"data.{split}_data_path": str(bad) for split in splits}, tree) == [
            f"data.{split}_data_path={bad}: {kind}; pass a file, a folder or a pattern" for split in splits
        ]
    no_training_data = {"data.train_data_path": "no", "mode": "validate", "resume_model_dir": "x", "split": "test"}
    assert errors(no_training_data, tree) == []


def test_the_sources_of_a_mixture_are_looked_for(tmp_path):
    (tmp_path / "a.jsonl").touch()
    tree, file = conf_tree(data="mixture"), str(tmp_path / "a.jsonl")
    assert errors({}, tree) == ["data=mixture needs data.sources=[<file, folder, pattern or id of the hub>,...]"]
    assert errors({"data.sources": [file, str(tmp_path), "owner/name"], "data.weights": [1, 0.5, 2]}, tree) == []
    limits = {"data.max_train_dialogues": 5, "data.max_validation_dialogues": 5}
    changes = {"data.sources": [file, file, "b.json"], "data.weights": [1], **limits}
    assert errors(changes, tree) == [
        f"data.sources: {file} is named twice; data.weights takes one more often",
        "data.sources: b.json: does not exist; pass files, folders, patterns or ids of the hub",
        "data.weights=[1.0]: must be one for each of the 3 of data.sources",
        "data.max_train_dialogues would take the first dialogues of the first source alone; with data=mixture use "
        "data.weights, of which 0.1 takes a tenth of a source",
        "data.max_validation_dialogues would take the first dialogues of the first source alone; with data=mixture "
        "leave it out",
    ]
    for wrong in ([], "a.jsonl", [1]):
        assert "must be a list of texts" in errors({"data.sources": wrong}, tree)[0]
    for wrong in ([], [0], [-1], ["a"], 2):
        assert "must be a list of numbers above 0" in errors({"data.weights": wrong, "data.sources": [file]}, tree)[0]


def test_the_folder_of_dailydialog_is_looked_for(tmp_path):
    (tmp_path / "file").touch()
    for path, kind in ((tmp_path / "no", "there is no such folder"), (tmp_path / "file", "is a file, not a folder"), ("x" * 300, "there is no such folder")):  # fmt: skip
        assert errors({"data.path": str(path)}, conf_tree(data="dailydialog")) == [
            f"data.path={path}: {kind}; pass the folder of DailyDialog's files"
        ]


def test_a_package_that_is_missing_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    assert errors({}) == ["data=chitchat needs a package: pip install chitchat-dataset"]


def test_a_model_from_scratch_has_its_sizes():
    assert errors({"model.pretrained_model": None}, conf_tree("gpt2")) == [
        "model.pretrained_model=null: only model=gpt2_tiny is built from scratch; pass a hub id or a folder"
    ]
    tree = conf_tree()
    tree["model"] = {key: value for key, value in tree["model"].items() if key != "heads"}
    assert errors({}, tree) == ["model.heads: is missing; a model from scratch needs it"]


@pytest.mark.parametrize("group", OPEN_GROUPS)
def test_a_target_is_a_built_in_one_or_allowed(group):
    key = f"{group}._target_"
    for name in ("os.system", f"{next(iter(groups(Config)[group].TARGETS))}x"):
        [error] = [error for error in errors({key: name}) if "_target_" in error]
        assert error.startswith(f"{key}={name}: ")
        assert error.endswith(f"pass allow_targets=[{name}]")
        assert not [error for error in errors({key: name, "allow_targets": ["a.B", name]}) if "_target_" in error]


@pytest.mark.parametrize(
    ("mode", "asking"),
    [
        ("resume", {"data", "optim", "scheduler", "mask_schedule", "logger", "metrics.extra"}),
        ("validate", {"data", "metrics.extra"}),
        ("inspect", {"data", "mask_schedule"}),
        ("chat", set()),
    ],
)
def test_a_mode_asks_for_permission_of_the_code_that_it_runs_only(mode, asking):
    own = {f"{group}._target_": "my.X" for group in OPEN_GROUPS} | {"metrics.extra": ["my.rate"], "mode": mode}
    found = errors(own | ({} if mode == "inspect" else {"resume_model_dir": "x"}))
    assert {error.split("._target_")[0].split(":")[0] for error in found} == asking


def test_a_metric_of_the_users_own_has_the_last_part_as_its_name():
    own = {"metrics.extra": ["my.rate"], "allow_targets": ["my.rate"], "metrics.names": ["bleu2", "rate"]}
    assert errors(own) == []
    assert len(errors(own | {"metrics.names": ["bleu2", "my.rate"]})) == 1


@pytest.mark.parametrize(("warmup", "steps", "count"), [(0, 1, 0), (5, 5, 0), (6, 5, 1), (2000, 1000, 1)])
def test_a_warm_up_longer_than_the_run_is_said_in_one_line(warmup, steps, count):
    lines = collect_notes(config(steps=steps, scheduler__warmup_steps=warmup))
    assert len(lines) == count
    assert all(f"warmup_steps={warmup:,}" in line and f"steps={steps:,}" in line for line in lines)


def test_sgd_has_no_automatic_learning_rate():
    assert errors({"optim.lr0": "auto"}, conf_tree(optim="sgd")) == [
        "optim.lr0=auto: not with optim=sgd, which needs a larger one; type a number"
    ]
    assert not errors({"optim.lr0": "auto"}, conf_tree(optim="adam"))


@pytest.mark.parametrize(
    ("files", "given", "reason"),
    [
        (["args.yaml", "weights/x"], "", "is the folder of a run; pass one of its models, as {}/weights/best_loss"),
        (["adapter_config.json"], "", "holds an adapter (LoRA), not a model: pass the folder of the model merged with it"),
        (["adapter_config.json", "config.json"], "", "holds an adapter (LoRA), not a model"),
        (["model.safetensors"], "model.safetensors", "is a file, and of files only .gguf and .pt hold a model; pass its folder {}"),
        (["x.GGUF"], "x.GGUF", None),
        ([], "x.gguf", "does not exist; pass a file, a folder or a hub id as gpt2"),
        (["qwen_q8.gguf"], "qwen-q8.gguf", "does not exist; did you mean {}/qwen_q8.gguf?"),
    ],
)  # fmt: skip
def test_a_place_without_a_model_is_named(tmp_path, files, given, reason):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = errors({"model.pretrained_model": str(tmp_path / given)}, conf_tree("gpt2"))
    assert [reason.format(tmp_path) in error for error in found] == [True] if reason else not found


def test_an_untrained_step_is_found_at_once_whatever_the_number_of_steps():
    points = {
        "mask_schedule._target_": "dialog_trainer.masking.schedules.piecewise",
        "mask_schedule.points": [[0, 1], [0.5, 0, 0], [0.6, 0, 0], [1, 1]], "steps": 10_000_000,
    }  # fmt: skip
    [error] = errors(points)
    assert "no turn carries weight at steps 5,000,000 to 6,000,000 of 10,000,000" in error


def test_the_hub_is_needed_for_what_is_not_on_this_machine(tmp_path):
    here = str(tmp_path)
    for model, path, hub_id in itertools.product(("gpt2", here), (None, here), (here, "owner/name")):
        tree = conf_tree("gpt2", "dailydialog")
        tree["model"]["pretrained_model"] = model
        tree["data"] |= {"path": path, "hub_id": hub_id}
        from_hub = model == "gpt2" or (path is None and hub_id == "owner/name")
        assert needs_hub(Config.read(tree)) == from_hub, (model, path, hub_id)
    for data, key in (("hub", "id"), ("mixture", "sources")):
        for place, from_hub in ((here, False), ("owner/name", True), ("no.jsonl", False), (f"{here}/*", False)):
            tree = conf_tree(data=data)
            tree["data"][key] = [here, place] if data == "mixture" else place
            assert needs_hub(Config.read(tree)) == from_hub, (data, place)
    assert not needs_hub(config())


@pytest.mark.parametrize(("lacks", "said"), [("compiler", "no C++ compiler"), ("nothing", None)])
def test_a_machine_without_a_compiler(monkeypatch, lacks, said):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None if lacks == "compiler" else name)
    monkeypatch.setattr(machine.Path, "exists", lambda path: True)
    found = machine.missing_compiler()
    assert found is None if said is None else said in found


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({}, 1),
        ({"processes": 3}, 3),
        ({"processes": 3, "mode": "inspect"}, 1),
        ({"processes": 3, "mode": "chat"}, 1),
        ({"processes": 3, "mode": "validate"}, 3),
        ({"processes": 3, "mode": "resume"}, 3),
        ({"device": "cuda"}, 1),
        ({"device": [2]}, 1),
        ({"device": [2, 0]}, 2),
        ({"device": [2, 0], "mode": "chat"}, 1),
    ],
)
def test_how_many_processes_a_job_starts(values, count):
    assert count_processes(config(**for_mode(values))) == count


@pytest.mark.parametrize(
    ("values", "size", "started", "errors"),
    [
        ({}, 1, False, []),
        ({"processes": 2}, 2, False, []),
        ({"processes": 2, "device": "cpu"}, 2, False, []),
        ({"processes": 2, "device": "cuda"}, 2, False, ["processes=2: is for the CPU only; with device=cuda one process runs per listed GPU"]),
        ({"processes": 2, "device": [0, 1]}, 2, False, ["processes=2: is for the CPU only; with device=[0, 1] one process runs per listed GPU"]),
        ({"device": [0, 1]}, 2, False, []),
        ({}, 4, True, []),
        ({"processes": 4}, 4, True, []),
        ({"processes": 2}, 4, True, ["processes=2: 4 processes were started; leave it at 1"]),
        ({"mode": "verify_resume"}, 2, True, ["mode=verify_resume: works in one process; start it without torchrun or srun"]),
        ({"mode": "inspect"}, 2, True, ["mode=inspect: works in one process; start it without torchrun or srun"]),
        ({"mode": "chat"}, 2, True, ["mode=chat: works in one process; start it without torchrun or srun"]),
        ({"mode": "inspect", "processes": 2}, 1, False, []),
        ({"batch_size": 3}, 3, True, []),
        ({"batch_size": 3}, 4, True, ["batch_size=3: 4 processes share a batch, so it must be at least 4"]),
        ({"batch_size": 3, "mode": "resume"}, 4, True, ["batch_size=3: 4 processes share a batch, so it must be at least 4"]),
        ({"batch_size": 3, "mode": "validate"}, 4, True, []),
        ({"parallel": "fsdp", "precision": "fp16"}, 2, True, ["precision=fp16: not with parallel=fsdp; use precision=bf16"]),
        ({"parallel": "fsdp", "precision": "bf16"}, 2, True, []),
        ({"parallel": "fsdp", "precision": "fp16"}, 1, False, []),
        ({"parallel": "fsdp", "precision": "fp16", "mode": "validate"}, 2, True, []),
        ({"parallel": "ddp", "precision": "fp16"}, 2, True, []),
    ],
)  # fmt: skip
def test_what_does_not_go_with_several_processes(values, size, started, errors):
    assert find_process_errors(config(**for_mode(values)), size, started) == errors


@pytest.mark.parametrize(("parallel", "count"), [("fsdp", 1), ("ddp", 0)])
def test_gradients_of_two_roles_are_not_compared_on_shards_of_a_model(parallel, count):
    found = find_process_errors(config(mask_schedule__alignment_every_n_steps=5, parallel=parallel), 2, True)
    assert [error.split(":")[0] for error in found] == ["mask_schedule.alignment_every_n_steps"] * count


def for_mode(values: dict) -> dict:
    """With the saved run that some modes need."""
    return values | (
        {"resume_model_dir": "x"}
        if values.get("mode") in [name for name, command in BUILT_IN.items() if command.works_on_saved_run]
        else {}
    )


@pytest.mark.parametrize(
    ("model", "data", "values", "project", "name"),
    [
        ("gpt2", "dailydialog", {}, "outputs/gpt2", "daily_dialog_chatbot"),
        ("gpt2_tiny", "chitchat", {}, "outputs/gpt2_tiny", "chitchat_chatbot"),
        ("gpt2", "dailydialog", {"model.pretrained_model": "owner/DialoGPT-small"}, "outputs/DialoGPT-small", "daily_dialog_chatbot"),
        ("gpt2", "dailydialog", {"model.pretrained_model": "outputs/gpt2/mine/weights/best_metric"}, "outputs/mine", "daily_dialog_chatbot"),
        ("gpt2", "jsonl", {"data.train_data_path": "a/my.jsonl"}, "outputs/gpt2", "my_chatbot"),
        ("gpt2", "jsonl", {"data.train_data_path": "/x/persona/train.jsonl"}, "outputs/gpt2", "persona_chatbot"),
        ("gpt2", "jsonl", {"data.train_data_path": "../a: b.v2.jsonl"}, "outputs/gpt2", "a_b_chatbot"),
        ("gpt2", "jsonl", {"data.train_data_path": "train.jsonl"}, "outputs/gpt2", "train_chatbot"),
        ("gpt2", "jsonl", {"data.train_data_path": "한국어.jsonl", "name": "typed"}, "outputs/gpt2", "typed"),
        ("gpt2", "chitchat", {"data._target_": "my_package.Forum"}, "outputs/gpt2", "forum_chatbot"),
        ("gpt2", "jsonl", {"model": 3, "data": None}, "outputs/gpt2", "data_chatbot"),
    ],
)  # fmt: skip
def test_default_names_follow_the_model_and_the_data(model, data, values, project, name):
    tree = changed({"project": None, "name": None} | values, conf_tree(model, data))
    found = resolve_names(tree, {"model": model, "data": data})
    assert (found["project"], found["name"]) == (project, name)


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("learning_rate", "optim.lr0="), ("lr", "optim.lr0="), ("epochs", "steps="), ("num_train_epochs", "steps="),
        ("max_steps", "steps="), ("scheduler_type", "scheduler="), ("dailydialog_train", "data=dailydialog"),
        ("CUSTOM.train_data_path", "data.train_data_path="), ("CUSTOM.other", "data=files"), ("top_p", "chat.generation.top_p="),
        ("dataset_name", "data=hub data.id="), ("optim.eps2", "did you mean optim.eps?"), ("optim.foo", "optim has lr0, "),
        ("chat.temperatur", "did you mean chat.generation.temperature?"),
        ("temperatur", "did you mean metrics.generation.temperature or chat.generation.temperature?"),
        ("stepz", "did you mean steps?"), ("lr0", "did you mean optim.lr0?"), ("xyzxyz", "--help"),
    ],
)  # fmt: skip
def test_what_people_type_by_habit_is_answered_with_the_form_here(key, form):
    assert form in hint_for_key(key, all_settings(Config))


@pytest.mark.parametrize(
    ("group", "value", "form"),
    [
        ("model", "gpt2-medium", "model.pretrained_model=gpt2-medium"),
        ("data", "my.jsonl", "data=files data.train_data_path=my.jsonl"),
        ("data", "chats/my.csv.gz", "data=files data.train_data_path=chats/my.csv.gz"),
        ("data", "owner/name", "data=hub data.id=owner/name"),
        ("data", "sharegpt", "data=files data.train_data_path=<file>"),
        ("data", "HuggingFace", "data=hub data.id=<owner/name>"),
        ("mask_schedule", "never", "mask_schedule=constant mask_schedule.end_weight=1"),
        ("metrics", ["ppl", "bleu2"], "metrics.names=[ppl,bleu2]"),
        ("scheduler", "Linear", "did you mean scheduler=linear?"),
        ("scheduler", "cosin", "did you mean scheduler=cosine?"),
        ("figures", False, "figures.enabled=false"),
        ("optim", 3, ""),
    ],
)
def test_a_choice_that_is_not_there_is_answered_with_the_form_here(group, value, form):
    choices = ["cosine", "linear"] if group == "scheduler" else ["gpt2", "gpt2_tiny"]
    assert form in hint_for_choice(group, value, choices)

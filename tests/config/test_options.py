"""Each option's rule, every check across options, and the notes."""

import copy
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.cli.compose import compose_settings, set_key
from dialog_trainer.config import checks
from dialog_trainer.config.checks import collect_notes, count_processes, find_errors, find_process_errors, needs_hub
from dialog_trainer.config.options import LATER, MODES_ON_A_RUN, NEEDED, RULES, TARGETS, Settings

COUNT = ((1, 7, 10**7), (0, -1, 1.0, 1.5, True, "1", None, [1]))
COUNT_OR_NULL = ((1, 7, None), (0, -1, 1.0, True, "1", [1]))
LENGTH = ((8, 1024), (7, 0, 8.0, True, "8", None))
TEXT = (("a", "한국 a=b 'c'"), ("", "  ", None, 3, True, ["a"], {}))
TEXT_OR_NULL = (("a", None), ("", "  ", 3, True, ["a"]))
BOOL = ((True, False), (0, 1, "true", None))
POSITIVE = ((1e-9, 1, 3.5), (0, -1, float("inf"), float("nan"), True, "1", None))
SHARE = ((0, 0.5, 1), (-0.1, 1.1, float("nan"), True, "0.5", None, [0.5]))
NOT_NEGATIVE = ((0, 0.1, 3), (-0.1, float("inf"), float("nan"), False, "0", None))
UP_TO_BELOW_1 = ((0, 0.5, 0.999), (-0.1, 1, 1.0, float("nan"), True, "0", None))

# Option -> (values that are allowed, values that are not).
VALUES = {
    "mode": (("train", "resume", "validate", "chat", "inspect"), ("report", "Train", "", None, 1, ["train"])),
    "project": TEXT,
    "name": TEXT,
    "seed": ((0, 2**63 - 1), (-1, 2**63, 0.0, True, "0", None)),
    "deterministic": BOOL,
    "device": (("auto", "cpu", "mps", "cuda", [0], [3], [0, 1], [2, 0]), ("gpu", "", None, 0, [], [0, 0], [1, -1], [-1], [True], [0, True], ["0"], [0.0])),
    "processes": ((1, 2, 1024), (0, 1025, True, "1", None)),
    "port": ((1024, 65535, None), (1023, 65536, 0, True, "10001")),
    "parallel": (("ddp", "fsdp"), ("dp", "", None)),
    "distributed_timeout_seconds": POSITIVE,
    "precision": (("fp32", "bf16", "fp16"), ("FP32", 32, None)),
    "compile": ((False, True, "auto"), (0, 1, None, "false", "true")),
    "steps": COUNT,
    "schedule_steps": COUNT_OR_NULL,
    "batch_size": COUNT,
    "micro_batch_tokens": (("auto", 8, 1024), (7, 0, 8.0, True, "8", "all", None)),
    "activation_checkpointing": BOOL,
    "max_grad_norm": ((0.1, 1, None), (0, -1, float("inf"), float("nan"), True, "1")),
    "train_user_turn_mask_step": SHARE,
    "patience": COUNT,
    "validate_every_n_steps": COUNT_OR_NULL,
    "save_every_n_steps": COUNT_OR_NULL,
    "log_every_n_steps": COUNT,
    "prediction_print_n": ((0, 5), (-1, 0.0, True, "1", None)),
    "resume_model_dir": TEXT_OR_NULL,
    "load_model_type": (("metric", "loss", "last"), ("best", "", None, 1)),
    "split": (("train", "validation", "test"), ("val", "", None, ["test"])),
    "ui": (("terminal",), ("web", "", None)),
    "progress": ((0, 0.6, 1, None), (-0.1, 1.1, float("nan"), True, "0.5", [0.5])),
    "inspect_dialogues": ((1, 200, 5000), (0, 5001, -1, 1.0, True, "200", None)),
    "chat.temperature": ((0, 0.7, 10), (-0.1, 10.1, float("nan"), True, "0", None)),
    "chat.top_p": ((0.1, 1), (0, 1.1, float("nan"), True, "1", None)),
    "chat.max_new_tokens": COUNT_OR_NULL,
    "allow_targets": (([], ["a.B"]), ("a.B", [1], None, {})),
    "model.pretrained_model": TEXT_OR_NULL,
    "model.max_len": LENGTH,
    "model.dropout": ((0, 0.5, None), (-0.1, 1, float("nan"), True, "0")),
    "model.vocab_size": ((257, 1_000_000), (256, 1_000_001, True, "300", None)),
    "model.layers": COUNT,
    "model.heads": COUNT,
    "model.width": COUNT,
    "model.positions": LENGTH,
    "data._target_": TEXT,
    "data.truncation": (("split", "keep_start", "keep_end"), ("cut", "", None)),
    "data.workers": COUNT_OR_NULL,
    "data.cache_dir": TEXT_OR_NULL,
    "data.path": TEXT_OR_NULL,
    "data.hub_id": TEXT,
    "data.hub_revision": TEXT_OR_NULL,
    "data.hub_column": TEXT,
    "data.train_data_path": TEXT_OR_NULL,
    "data.validation_data_path": TEXT_OR_NULL,
    "data.test_data_path": TEXT_OR_NULL,
    "data.validation_share": ((0.05, 0.999), (0, 1, -0.1, float("nan"), True, "0.1", None)),
    "optim._target_": TEXT,
    "optim.lr0": POSITIVE,
    "optim.weight_decay": NOT_NEGATIVE,
    "optim.betas": (([0.9, 0.999], [0, 0]), ([0.9], [0.9, 1], [0.9, -1], [0.9, "0"], [0.9, True], 0.9, None)),
    "optim.eps": POSITIVE,
    "optim.momentum": UP_TO_BELOW_1,
    "scheduler._target_": TEXT,
    "scheduler.warmup_steps": ((0, 10**9), (-1, 0.0, True, "1", None)),
    "scheduler.lrf": SHARE,
    "mask_schedule._target_": TEXT,
    "mask_schedule.trained_role": (("assistant", "user"), ("system", "User", "", None, 2)),
    "mask_schedule.last_turn_only": BOOL,
    "mask_schedule.normalize": (("token", "fixed", "turn"), ("batch", "", None, 1)),
    "mask_schedule.untrained": (("drop", "refuse"), ("keep", "", None, True)),
    "mask_schedule.alignment_every_n_steps": COUNT_OR_NULL,
    "mask_schedule.start": SHARE,
    "mask_schedule.end": SHARE,
    "mask_schedule.start_weight": SHARE,
    "mask_schedule.end_weight": SHARE,
    "mask_schedule.points": (
        ([[0, 1]], [[0, 1.0], [0.5, 0.25, 0.5], [1, 0]]),
        ([], [0, 1], [[0]], [[0, 1, 1, 1]], [[0, True]], [[0, "1"]], [[None, 1]], [[0, 1], "x"], "0", None),
    ),
    "metrics.common": (([], ["lr", "train_loss"]), (["loss"], "lr", None, [["lr"]])),
    "metrics.names": (([], ["ppl", "bleu1", "nist5"]), (["bleu5"], ["nist0"], "ppl", None, [{}])),
    "metrics.best": (
        ({"bleu2": 1}, {"ppl": -0.5, "nist4": 2.0}),
        ({}, {"rouge": 1}, {"bleu2": "1"}, {"bleu2": True}, {"bleu2": float("nan")}, {"bleu2": float("inf")}, "bleu2", None),
    ),
    "metrics.max_dialogues": COUNT_OR_NULL,
    "metrics.max_new_tokens": COUNT,
    "metrics.batch_tokens": LENGTH,
    "metrics.protocol": (["response", "all_turns", "rollout", "original"], ["default", "", None, 1]),
    "metrics.decoding": (["greedy", "sample", "beam"], ["beams", None, True]),
    "metrics.temperature": ([0.01, 1, 10], [0, 0.009, 10.1, "1", None, float("nan")]),
    "metrics.top_p": ([0.01, 1], [0, 1.1, -1, None, float("nan")]),
    "metrics.beams": ([2, 64], [1, 65, 2.0, True, None]),
    "metrics.max_seconds": ([0.5, 600, None], [0, -1, "10", float("inf"), float("nan")]),
    "data.drop_leaks": ([True, False], [None, 0, "true"]),
    "compare_with": (["outputs/a", None], ["", " ", 3]),
}  # fmt: skip


@pytest.fixture(scope="module")
def base() -> Settings:
    """The settings of `data=chitchat model=gpt2_tiny`, without a fault."""
    settings = compose_settings(["data=chitchat", "model=gpt2_tiny"], None)
    assert find_errors(settings) == []
    return settings


@pytest.fixture
def faults_with(base):
    """`faults_with({"a.b": value})` are the faults of the base with these values; a key may be a new one."""

    def faults(values: dict) -> list[str]:
        settings = copy.deepcopy(base)
        for key, value in values.items():
            set_key(settings, key, value)
        return find_errors(settings)

    return faults


def test_every_rule_is_in_the_table():
    assert VALUES.keys() == RULES.keys()


@pytest.mark.parametrize(("key", "value"), [(key, good) for key, (goods, _) in VALUES.items() for good in goods])
def test_a_value_within_the_range_is_no_fault(key, value):
    assert RULES[key].fault(key, value) is None


@pytest.mark.parametrize(("key", "value"), [(key, bad) for key, (_, bads) in VALUES.items() for bad in bads])
def test_a_value_outside_the_range_is_named_with_what_is_allowed(key, value):
    fault = RULES[key].fault(key, value)
    assert fault.startswith(f"{key}={'null' if value is None else value}: ")
    assert RULES[key].allows in fault


@pytest.mark.parametrize(("key", "value"), sorted(LATER))
def test_a_name_kept_for_later_is_said_to_be_one(key, value):
    assert RULES[key].fault(key, value) == f"{key}={value}: is not in this version; use {RULES[key].allows}"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=5))  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_no_value_of_any_kind_upsets_a_rule(value):
    for key, rule in RULES.items():
        fault = rule.fault(key, value)
        assert fault is None or fault.startswith(f"{key}=")


@pytest.mark.parametrize(("key", "value"), [(key, bad) for key, (_, bads) in VALUES.items() for bad in bads])
def test_a_value_at_fault_causes_no_other_fault(faults_with, key, value):
    """No check across options looks at it: it would not know what to make of it."""
    assert faults_with({key: value}) == [RULES[key].fault(key, value)]


def test_all_faults_are_named_at_once(faults_with):
    bad = {key: bads[0] for key, (_, bads) in VALUES.items()}
    named = {fault.split("=", 1)[0] for fault in faults_with(bad)}
    assert named == bad.keys()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"foo": 1}, ["foo=1: there is no such option"]),
        ({"model.foo": 1, "chat.bar": 2}, ["chat.bar=2: there is no such option", "model.foo=1: there is no such option"]),
        ({"optim.anything": 1}, []),  # its keys go to a class that may be the user's own
        ({"mask_schedule.anything": 1}, []),
        ({"mode": "inspect", "resume_model_dir": "x"}, ["resume_model_dir=x: goes with mode=resume, validate or chat, not with mode=inspect"]),
        ({"mode": "inspect"}, []),
        ({"mask_schedule.start": 0.5, "mask_schedule.end": 0.25}, ["mask_schedule.start=0.5: must be at most mask_schedule.end=0.25"]),
        ({"mask_schedule.start": 0.5, "mask_schedule.end": 0.5}, []),
        ({"mask_schedule.points": [[0, 1], [0.5, 0.25], [0.5, 0], [1, 0]]}, []),
        ({"mask_schedule.points": [[0.5, 1], [0.25, 0]]}, ["mask_schedule.points[1]=[0.25, 0]: stands behind progress 0.5; order the points by progress"]),
        ({"mask_schedule.points": [[-0.5, 1], [0, 1.5], [0.25, 1, -1], [2, 0]]}, [f"mask_schedule.points[{place}]={point}: progress and weights must be from 0 to 1" for place, point in ((0, [-0.5, 1]), (1, [0, 1.5]), (2, [0.25, 1, -1]), (3, [2, 0]))]),
        ({"mask_schedule.points": [[0, float("nan")]]}, ["mask_schedule.points[0]=[0, nan]: progress and weights must be from 0 to 1"]),
        ({"mask_schedule.points": [[0, 1], [0.5, 0, 0], [1, 1]], "steps": 8}, ["mask_schedule: no turn carries weight at step 4 of 8; nothing would be trained but ends of dialogues: give one role weight"]),
        ({"mask_schedule.points": [[0, 1], [0.5, 0, 0], [1, 1]], "steps": 8, "schedule_steps": 7}, []),
        ({"resume_model_dir": "x"}, ["resume_model_dir=x: goes with mode=resume, validate or chat, not with mode=train"]),
        ({"mode": "resume"}, ["mode=resume needs a run: pass resume_model_dir=<run folder>"]),
        ({"mode": "validate"}, ["mode=validate needs a run: pass resume_model_dir=<run folder>"]),
        ({"mode": "chat"}, ["mode=chat needs a run: pass resume_model_dir=<run folder>"]),
        ({"mode": "chat", "resume_model_dir": "x"}, []),
        ({"metrics.names": ["ppl"]}, ["metrics.best={'bleu2': 1.0}: bleu2 is not computed; add it to metrics.names"]),
        ({"metrics.best": {"bleu2": 1, "bleu4": 1, "nist5": 1}}, ["metrics.best={'bleu2': 1, 'bleu4': 1, 'nist5': 1}: nist5 is not computed; add it to metrics.names"]),
        ({"metrics.best": {"ppl": 1, "bleu2": 1}}, ["metrics.best={'ppl': 1, 'bleu2': 1}: a lower ppl is better; give it a weight below 0"]),
        ({"metrics.best": {"ppl": -1}}, []),
        ({"metrics.names": ["length"], "metrics.best": {"length": 1}}, ["metrics.best={'length': 1}: no value of length is better than another; leave it out"]),
        ({"model.max_len": 300}, ["model.positions=256: must be at least model.max_len=300"]),
        ({"model.max_len": 256}, []),
        ({"micro_batch_tokens": 127}, ["micro_batch_tokens=127: must be at least model.max_len=128"]),
        ({"micro_batch_tokens": 128}, []),
        ({"metrics.batch_tokens": 127}, ["metrics.batch_tokens=127: must be at least model.max_len=128"]),
        ({"metrics.max_new_tokens": 126, "chat.max_new_tokens": 126}, []),
        ({"metrics.max_new_tokens": 127}, ["metrics.max_new_tokens=127: must be at most 126, so that a context fits into model.max_len=128 beside the reply"]),
        ({"chat.max_new_tokens": 127}, ["chat.max_new_tokens=127: must be at most 126, so that a context fits into model.max_len=128 beside the reply"]),
        ({"model.heads": 3}, ["model.width=128: must be a multiple of model.heads=3"]),
        ({"model.heads": 0, "model.width": 3}, ["model.heads=0: must be a whole number of at least 1"]),
        ({"model.pretrained_model": "./nowhere"}, ["model.pretrained_model=./nowhere: there is no such folder; pass a folder or a hub id as gpt2"]),
        ({"model.pretrained_model": "a/b/c"}, ["model.pretrained_model=a/b/c: there is no such folder; pass a folder or a hub id as gpt2"]),
        ({"model.pretrained_model": "owner/name"}, []),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(faults_with, values, expected):
    assert sorted(faults_with(values)) == expected


@pytest.mark.parametrize("key", NEEDED)
def test_a_key_that_every_choice_has_may_not_be_missing(base, key):
    settings = copy.deepcopy(base)
    group, name = key.split(".")
    del settings[group][name]
    assert find_errors(settings) == [f"{key}: is missing; every choice of its group has it"]


@pytest.mark.parametrize("group", TARGETS)
def test_a_class_is_one_of_the_exact_names_or_allowed_on_the_command_line(faults_with, group):
    key = f"{group}._target_"
    near_miss = f"{sorted(TARGETS[group])[0]}x"
    for name in ("os.system", near_miss):
        [fault] = faults_with({key: name})
        assert fault.startswith(f"{key}={name}: not one of ")
        assert fault.endswith(f"pass allow_targets=[{name}]")
        assert faults_with({key: name, "allow_targets": ["a.B", name]}) == []


@pytest.mark.parametrize("key", ["project", "name"])
@pytest.mark.parametrize("value", ["..", "../x", "a/../b", "a:b", "a\nb", "a\x00b", "a\x1fb", "a\x7fb", "a\x85b"])
def test_a_name_holds_no_way_up_no_colon_and_no_control_character(faults_with, key, value):
    assert f"{key}={value!r}: must not hold '..', ':' or control characters" in faults_with({key: value})


@pytest.mark.parametrize("value", ["a/b", "/a", "a/", "a\\b", ".", "/"])
def test_a_name_is_one_part_of_a_path(faults_with, value):
    assert f"name={value}: must be one path part; put folders into project" in faults_with({"name": value})


@pytest.mark.parametrize(
    ("value", "fits"),
    [("a" * 240, True), ("a" * 241, False), ("가" * 80, True), ("가" * 81, False), ("a" * 300, False)],
)
@pytest.mark.parametrize("key", ["project", "name", "data.cache_dir"])
def test_a_part_of_a_path_leaves_room_for_a_number(faults_with, key, value, fits):
    expected = [] if fits else [f"{key}={value[:30]}...: a part of a path may have at most 240 bytes in UTF-8"]
    assert faults_with({key: value}) == expected


@pytest.mark.parametrize("key", ["project", "name", "data.cache_dir"])
def test_a_lone_surrogate_is_no_text(faults_with, key):
    assert faults_with({key: "a\ud800"}) == [f"{key}='a\\ud800': is not valid text"]


@pytest.mark.parametrize("key", ["project", "data.cache_dir"])
def test_a_file_in_the_way_of_a_folder(faults_with, key, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deeper" / "still"):
        assert faults_with({key: str(path)}) == [
            f"{key}={path}: {tmp_path / 'file'} is a file, not a folder; choose another"
        ]
    assert faults_with({key: str(tmp_path / "new" / "deeper")}) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("key", ["project", "data.cache_dir"])
def test_a_folder_that_cannot_be_written(faults_with, key, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(checks.os, "access", lambda path, mode: asked.append(path) or path != tmp_path)
    path = tmp_path / "new"
    assert faults_with({key: str(path)}) == [
        f"{key}={path}: {tmp_path} cannot be written; choose another or change its permissions"
    ]
    assert tmp_path in asked


@pytest.mark.parametrize("mode", ["train", "inspect"])
def test_what_writes_into_the_project_needs_it(faults_with, mode, tmp_path):
    (tmp_path / "file").touch()
    [fault] = faults_with({"mode": mode, "project": str(tmp_path / "file")})
    assert fault.endswith("is a file, not a folder; choose another")


@pytest.mark.parametrize("mode", MODES_ON_A_RUN)
def test_a_run_that_is_there_needs_no_project(faults_with, mode, tmp_path):
    (tmp_path / "file").touch()
    assert faults_with({"mode": mode, "resume_model_dir": "x", "project": str(tmp_path / "file")}) == []


@pytest.fixture
def jsonl():
    return lambda **paths: find_errors(
        compose_settings(["data=jsonl", "model=gpt2_tiny", *(f"data.{k}_data_path='{v}'" for k, v in paths.items())], None)
    )  # fmt: skip


def test_files_of_own_dialogues_are_looked_for(jsonl, tmp_path):
    file = tmp_path / "a b.jsonl"
    file.touch()
    assert jsonl() == ["data=jsonl needs data.train_data_path=<file.jsonl>"]
    assert jsonl(train=file) == []
    for bad, kind in ((tmp_path, "is a folder, not a file"), (tmp_path / "no", "does not exist"), ("x" * 300, "does not exist")):  # fmt: skip
        assert jsonl(train=bad, validation=bad, test=bad) == [
            f"data.{split}_data_path={bad}: {kind}; pass the path of a JSONL file" for split in ("train", "validation", "test")
        ]  # fmt: skip


def test_the_folder_of_dailydialog_is_looked_for(tmp_path):
    (tmp_path / "file").touch()
    for path, kind in ((tmp_path / "no", "does not exist"), (tmp_path / "file", "is a file, not a folder"), ("x" * 300, "does not exist")):  # fmt: skip
        settings = compose_settings([f"data.path='{path}'"], None)
        assert find_errors(settings) == [f"data.path={path}: {kind}; pass the folder of DailyDialog's files"]


def test_a_package_that_is_missing_is_named_with_how_to_install_it(faults_with, monkeypatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    assert faults_with({}) == ["data=chitchat needs a package: pip install chitchat-dataset"]


def test_a_hub_model_is_not_built_from_scratch():
    settings = compose_settings(["model.pretrained_model=null"], None)
    assert find_errors(settings) == [
        "model.pretrained_model=null: only model=gpt2_tiny is built from scratch; pass a hub id or a folder"
    ]


@pytest.mark.parametrize(("warmup", "steps", "count"), [(0, 1, 0), (5, 5, 0), (6, 5, 1), (2000, 1000, 1)])
def test_a_warm_up_longer_than_the_run_is_said_in_one_line(base, warmup, steps, count):
    lines = collect_notes(base | {"steps": steps, "scheduler": base["scheduler"] | {"warmup_steps": warmup}})
    assert len(lines) == count
    assert all(f"warmup_steps={warmup:,}" in line and f"steps={steps:,}" in line for line in lines)


def test_the_hub_is_needed_for_what_is_not_on_this_machine(base, tmp_path):
    here = str(tmp_path)
    data = compose_settings([], None)["data"]
    cases = itertools.product((None, here, "gpt2"), (None, here), (here, "owner/name"))
    for model, path, hub_id in cases:
        settings = base | {
            "model": base["model"] | {"pretrained_model": model},
            "data": data | {"path": path, "hub_id": hub_id},
        }
        from_hub = model == "gpt2" or (path is None and hub_id == "owner/name")
        assert needs_hub(settings) == from_hub, (model, path, hub_id)
    assert not needs_hub(base)


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("metrics.names", ["ppl", "blue2"], "; did you mean bleu2?"),
        ("metrics.names", ["nist", "lenght"], "; did you mean nist5 and length?"),
        ("metrics.names", ["zzzz"], ""),
        ("metrics.best", {"blue4": 1}, "; did you mean bleu4?"),
    ],
)
def test_a_score_that_does_not_exist_is_told_with_the_nearest(key, value, hint):
    fault = RULES[key].fault(key, value)
    assert fault.endswith(hint or "entropy4")
    assert ("did you mean" in fault) == bool(hint)


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
def test_how_many_processes_a_job_starts(base, values, count):
    assert count_processes(base | values) == count


@pytest.mark.parametrize(
    ("values", "size", "started", "faults"),
    [
        ({}, 1, False, []),
        ({"processes": 2}, 2, False, []),
        ({"processes": 2, "device": "cpu"}, 2, False, []),
        ({"processes": 2, "device": "cuda"}, 2, False, ["processes=2: are processes of the CPU; of device=cuda there is one for each GPU named"]),
        ({"processes": 2, "device": [0, 1]}, 2, False, ["processes=2: are processes of the CPU; of device=[0, 1] there is one for each GPU named"]),
        ({"device": [0, 1]}, 2, False, []),
        ({}, 4, True, []),
        ({"processes": 4}, 4, True, []),
        ({"processes": 2}, 4, True, ["processes=2: 4 processes were started; leave it at 1"]),
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
def test_what_does_not_go_with_several_processes(base, values, size, started, faults):
    assert find_process_errors(base | values, size, started) == faults


@pytest.mark.parametrize(("parallel", "count"), [("fsdp", 1), ("ddp", 0)])
def test_gradients_of_two_roles_are_not_compared_on_parts_of_a_model(base, parallel, count):
    probed = base["mask_schedule"] | {"alignment_every_n_steps": 5}
    found = find_process_errors(base | {"mask_schedule": probed, "parallel": parallel}, 2, True)
    assert [fault.split(":")[0] for fault in found] == ["mask_schedule.alignment_every_n_steps"] * count

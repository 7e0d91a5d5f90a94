"""The schema: every field is documented, each value out of range is one message, conf/ says the same."""

import contextlib
import copy
import subprocess
import sys
import textwrap

import pydantic
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dialog_trainer.config.data_names import Columns, Roles
from dialog_trainer.config.frozen import FrozenMapping, flatten, nest
from dialog_trainer.config.groups import OpenGroup
from dialog_trainer.config.job import Job
from dialog_trainer.config.schema import SCHEMA_VERSION, Config
from dialog_trainer.config.table import all_settings, groups, on_resume, own_settings, read
from dialog_trainer.errors import ConfigError
from tests.helpers.configs import CONF, conf_tree, read_conf

SETTINGS = all_settings(Config)
GROUP_FILES = sorted(
    p for p in CONF.rglob("*.yaml") if not {"experiment", "debug", "hydra"} & {*p.relative_to(CONF).parts}
)


@pytest.fixture(scope="module")
def tree() -> dict:
    return conf_tree()


def changed(tree: dict, values: dict) -> dict:
    return nest(flatten(copy.deepcopy(tree), frozenset({"metrics.best"})) | values)


# One kind of range: values that are allowed, as the configuration holds them, and values that are not.
COUNT = ((1, 7, 10**7), (0, -1, 1.5, True, [1]))
FRACTION = ((0.0, 0.5, 1.0), (-0.1, 1.1, float("nan"), True, [0.5], "half"))
FLAG = ((True, False), (0, 1, "true"))
TEXT = (("a", "한국 a=b 'c'"), ("", "  ", 3, True, ["a"]))
RANGES = {
    "mode": (("train", "resume", "validate", "chat", "inspect", "report", "verify_resume"), ("reports", "Train", "", None, 1, ["train"])),
    "name": TEXT,
    "seed": ((0, 2**63 - 1), (-1, 2**63, 0.5, True, None)),
    "deterministic": FLAG,
    "device": (("auto", "cpu", "mps", "cuda", (0,), (2, 0)), ("gpu", "", None, 0, [], [0, 0], [-1], [True], ["0"], [0.0])),
    "processes": ((1, 1024), (0, 1025, True, None)),
    "port": ((1024, 65535, None), (1023, 65536, True)),
    "distributed_timeout_seconds": ((1e-9, 3.5), (0, -1, float("inf"), float("nan"), True, None)),
    "compile": ((False, True, "auto"), (0, 1, None, "false")),
    "steps": ((1, 10**7), (0, 10**7 + 1, None, True)),
    "batch_size": COUNT,
    "micro_batch_tokens": (("auto", 8, 1024), (7, True, "all", None)),
    "max_grad_norm": ((0.1, None), (0, float("inf"), True)),
    "train_user_turn_mask_step": FRACTION,
    "patience": ((0, 5), (-1, None, True)),
    "validate_every_n_steps": ((1, 7, "epoch", None), (0, "step", True)),
    "inspect_dialogues": ((1, 5000), (0, 5001)),
    "allow_targets": (((), ("a.B",)), ("a.B", [1], None, {})),
    "model.dropout": ((0.0, 0.5, None), (-0.1, 1, float("nan"), True)),
    "model.vocab_size": ((257, 1_000_000), (256, None)),
    "data.workers": ((0, 3, None), (-1, True, 1.5)),
    "data.cache_dir": (("a", None), ("", 3)),
    "optim.betas": (((0.9, 0.999), (0.0, 0.0)), ([0.9], [0.9, 1], [0.9, "0"], [0.9, True], 0.9, None)),
    "optim.lr0": ((1e-4, "auto"), (0, None, "fast")),
    "metrics.common": (((), ("lr", "train_loss")), (["loss"], "lr", None, [["lr"]])),
    "metrics.names": (((), ("ppl",)), ("ppl", None, [{}])),
    "metrics.best": (({"bleu2": 1.0}, {"ppl": -0.5}), ({}, {"bleu2": "1"}, {"bleu2": True}, {"bleu2": float("nan")}, "bleu2", None)),
    "metrics.generation.temperature": ((0.0, 0.01, 10.0), (-1, 0.009, 10.1, None, float("nan"))),
    "chat.generation.top_p": ((0.01, 1.0), (0, 1.1, None)),
    "chat.generation.max_new_tokens": ((1, None), (0, True)),
    "metrics.generation.beams": ((2, 64), (1, 65)),
    "runs": ((("a",), ("a", "b b"), None), ((1,), "", [""], {"a": 1})),
    "report.baseline": (("0.5", "a=1, b=2", None), ("", [1], {})),
    "report.equivalence_margin": ((0.01, None), (0, -1, True)),
    "figures.format": (("png", "svg", "pdf"), ("jpg", None)),
}  # fmt: skip


def test_every_field_is_described_in_one_line_and_has_words_for_its_range():
    for key, setting in SETTINGS.items():
        assert setting.description.endswith(".") or setting.description.endswith("?"), key
        assert "\n" not in setting.description
        assert setting.words, key
        assert setting.meta.on_resume in ("free", "inexact", "refused"), key


@pytest.mark.parametrize(("key", "value"), [(key, good) for key, (goods, _) in RANGES.items() for good in goods])
def test_a_value_in_range_is_held_as_it_is(key, value):
    held = SETTINGS[key].validate(value)
    assert held == value
    assert type(held) is type(value) or isinstance(held, FrozenMapping)


@pytest.mark.parametrize(("key", "value"), [(key, bad) for key, (_, bads) in RANGES.items() for bad in bads])
def test_a_value_out_of_range_is_one_message_with_key_value_and_range(tree, key, value):
    [error] = read(Config, changed(tree, {key: value})).errors
    assert error.startswith(f"{key}=")
    assert SETTINGS[key].words.removesuffix(" or null") in error


def test_one_fault_does_not_hide_another(tree):
    bad = {key: bads[0] for key, (_, bads) in RANGES.items()}
    assert read(Config, changed(tree, bad)).invalid.keys() == bad.keys()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=5))  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_no_value_of_any_kind_raises_something_else(value):
    for setting in SETTINGS.values():
        with contextlib.suppress(ValueError):  # and nothing else
            setting.validate(value)


@pytest.mark.parametrize(
    ("key", "typed", "held"),
    [("optim.lr0", "1e-4", 1e-4), ("steps", "100", 100), ("train_user_turn_mask_step", 0, 0.0), ("port", "1024", 1024)],
)
def test_a_quoted_number_is_a_number(tree, key, typed, held):
    config = Config.read(changed(tree, {key: typed}))
    assert config.flat()[key] == held
    assert config == Config.read(changed(tree, {key: held}))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"foo": 1}, "foo=1: there is no such option"),
        ({"chat.bar": 2}, "chat.bar=2: there is no such option"),
        ({"optim.speed": 2}, "optim.speed=2: there is no such option; torch.optim.AdamW takes foreach, "),
        ({"ui": "web"}, "ui=web: is not in this version; use terminal"),
        ({"metrics.common": ["lrr"]}, "did you mean lr?"),
        ({"name": 123}, "to pass a number as a text"),
    ],
)
def test_a_message_says_what_to_do(tree, values, error):
    [found] = read(Config, changed(tree, values)).errors
    assert error in found


@pytest.mark.parametrize(
    "key", [key for key, s in SETTINGS.items() if not s.meta.optional and key in all_settings(Config)]
)
def test_a_missing_key_is_named(tree, key):
    flat = flatten(copy.deepcopy(tree), frozenset({"metrics.best"}))
    if flat.pop(key, "absent") != "absent":
        errors = read(Config, nest(flat)).errors
        assert any(error.startswith(f"{key}: is missing") or key.startswith(error.split(":")[0]) for error in errors)


@pytest.mark.parametrize("optim", ["adam", "adamw", "sgd"])
def test_the_keys_of_a_built_in_target_are_typed_and_those_of_another_kept(tree, optim):
    config = Config.read(conf_tree(optim=optim))
    own = own_settings(groups(Config)["optim"], "optim", config.optim.target)
    assert {f"optim.{name}" for name in config.optim.arguments} <= own.keys()
    foreign = Config.read(changed(tree, {"optim._target_": "my.X", "optim.speed": {"a": [1, "x"]}}))
    assert foreign.optim.arguments["speed"] == {"a": (1, "x")}
    assert foreign.to_dict()["optim"]["speed"] == {"a": [1, "x"]}


def test_nothing_inside_a_configuration_can_be_changed(tree):
    config = Config.read(tree)
    for change in (
        lambda: setattr(config, "steps", 3),
        lambda: setattr(config.optim, "lr0", 3),
        lambda: config.metrics.best.__setitem__("ppl", 1),
        lambda: config.optim.arguments.update({"a": 1}),
        lambda: config.metrics.names.append("ppl"),
    ):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            change()
    hash(config)


def test_replace_validates_and_leaves_the_original(tree):
    config = Config.read(tree)
    assert config.replace({"optim.lr0": 0.5, "optim.betas": [0.1, 0.2]}).optim.arguments["betas"] == (0.1, 0.2)
    assert config.optim.lr0 == "auto"
    with pytest.raises(ConfigError, match="steps=0: must be"):
        config.replace({"steps": 0})


@pytest.mark.parametrize("model", ["gpt2", "gpt2_tiny"])
@pytest.mark.parametrize(
    ("data", "mask"), [("dailydialog", "linear"), ("jsonl", "piecewise"), ("chitchat", "constant")]
)
def test_a_configuration_survives_yaml_and_the_way_to_the_other_ranks(model, data, mask):
    config = Config.read(conf_tree(model, data, "sgd", mask))
    saved = config.to_dict()
    assert saved["schema_version"] == SCHEMA_VERSION
    assert Config.from_dict(yaml.safe_load(yaml.safe_dump(saved))) == config
    job = Job(config, (("a", "1", "2"),), "outputs", "name", FrozenMapping({"overrides": ["a=1"]}))
    assert Job.from_json(job.to_json()) == job


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("steps", "free"), ("batch_size", "inexact"), ("model.layers", "refused"), ("model.max_len", "inexact"),
        ("optim._target_", "refused"), ("optim.lr0", "free"), ("optim.speed", "refused"), ("data.path", "free"), ("data.hub_id", "inexact"),
        ("data.colour", "inexact"), ("data.workers", "free"), ("scheduler.lrf", "free"), ("mask_schedule.x", "free"),
        ("optim.amsgrad", "refused"), ("optim.momentum", "free"), ("model.pretrained_model", "refused"),
    ],
)  # fmt: skip
def test_what_a_changed_key_means_for_a_resumed_run(key, kind):
    assert on_resume(Config, key) == kind


def test_the_fields_of_a_command_are_no_part_of_a_run():
    assert {key.split(".")[0] for key, setting in SETTINGS.items() if setting.meta.per_command} == {
        "mode", "resume_model_dir", "load_model_type", "split", "compare_with", "ui", "allow_targets", "chat", "port",
        "distributed_timeout_seconds", "resume", "runs", "report", "sweep",
    }  # fmt: skip


def group_of(path) -> str:
    return path.parent.relative_to(CONF).as_posix().replace("/", ".")


def test_conf_supplies_every_field_and_no_other():
    found = set()
    for path in GROUP_FILES:
        prefix = "" if path.parent.name in ("conf", "runtime") else f"{group_of(path)}."
        tree = read_conf(path.relative_to(CONF).as_posix())
        found |= set(flatten(tree, frozenset({"metrics.best"}), prefix))
    required = {key for key, setting in SETTINGS.items() if not setting.meta.optional or key.startswith("model.")}
    assert found == required


@pytest.mark.parametrize("path", GROUP_FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_the_comments_of_conf_are_the_descriptions_of_the_schema(path):
    """The comment of a key is the block right above it. On a error the message holds the text to put there."""
    text = path.read_text(encoding="utf-8")
    assert "${" not in text
    group, above, parents = group_of(path), [], []
    prefix = "" if group in (".", "runtime") else f"{group}."
    target = (yaml.safe_load(text) or {}).get("_target_")
    record = groups(Config).get(group)
    own = own_settings(record, group, target) or {} if target and issubclass(record, OpenGroup) else {}
    for line in text.split("defaults:")[-1].splitlines():
        bare, indent = line.strip(), len(line) - len(line.lstrip())
        if bare.startswith("#"):
            above.append(bare[1:].strip())
        elif bare and not bare.startswith(("-", "_target_")):
            name, value = bare.split(":", 1)
            parents = [*parents[: indent // 2], name]
            key = prefix + ".".join(parents)
            if value.strip():
                setting = own.get(key) or SETTINGS[key]
                expected = f"{setting.description} [{setting.short_range}]"
                assert " ".join(above) == expected, textwrap.fill(expected, 118)
        if not bare.startswith("#"):
            above = []


def test_a_list_of_defaults_stands_in_config_yaml_alone():
    assert [path.name for path in GROUP_FILES if "defaults:" in path.read_text(encoding="utf-8")] == ["config.yaml"]


def test_the_configuration_needs_neither_torch_nor_numpy():
    script = (
        "import sys; from dialog_trainer.config import hints, job, machine, validation;"
        "print([name for name in ('torch', 'numpy', 'hydra', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CONF.parent)
    assert done.stdout == "[]\n"


# A type of mappings, a value that is typed, and what it is read as; None: it is refused.
NAMED = [
    (Roles, {0: "user", 1: "assistant"}, {"0": "user", "1": "assistant"}), (Roles, {"assistant": 0}, {"assistant": "0"}),
    (Roles, {"assistant": [0, "Jo"]}, {"assistant": ("0", "Jo")}), (Columns, {"prompt": 0, "role": None}, {"prompt": "0", "role": None}),
    (Roles, {"assistant": 1.5}, None), (Roles, {True: "user"}, None), (Roles, {"a": None}, None), (Roles, {"": "user"}, None),
    (Columns, {"prompt": ""}, None), (Columns, {"ask": "q"}, None), (Columns, {}, None), (Roles, [], None),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "value", "expected"), NAMED)
def test_a_number_may_be_the_name_of_a_speaker_or_column(type_, value, expected):
    read_value = pydantic.TypeAdapter(type_).validate_python
    if expected is not None:
        assert dict(read_value(value)) == expected
        return
    with pytest.raises(pydantic.ValidationError):
        read_value(value)

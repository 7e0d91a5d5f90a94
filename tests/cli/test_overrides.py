"""Overrides of absurd size or form: one bounded error each, at once."""

import time

import pytest

from dialog_trainer.cli.compose import compose_runs
from dialog_trainer.cli.overrides import format_value, prepare_overrides, read_override
from dialog_trainer.errors import ConfigError

pytestmark = pytest.mark.slow
PLUGIN = "takes a name, as hydra/launcher=local"
NOT_USED = "is not used here"
ONE_VALUE = "Hydra's own options can be set to one value only"
JOBS = "a sweep has at most 1,000"
LONG = "a value may have at most 4,000 characters, and this has"
ABSURD = {
    "digits": ("steps=" + "9" * 5000, LONG),
    "a number too large": ("optim.lr0=1e99999", "must be a number above 0, or auto"),
    "a megabyte": ("name=" + "x" * 1_000_000, LONG),
    "a list of a megabyte": ("metrics.names=[" + "a," * 500_000 + "b]", LONG),
    "brackets": ("metrics.names=" + "[" * 1900 + "]" * 1900, "cannot be read"),
    "references": ("name=" + "${a" * 900 + "}" * 900, "name='${a${a"),
    "a deep value": ("++data.x=" + "{a:" * 50 + "1" + "}" * 50, "a value at most 20 lists or dicts in each other"),
    "a deep key": ("a" + ".a" * 1900 + "=1", "a key has at most 20 dots"),
    "calls": ("seed=" + "sort(" * 700 + "1,2" + ")" * 700, "cannot be read"),
    "no step": ("seed=range(0,5,0)", JOBS),
    "an endless range": ("seed=range(0,inf)", JOBS),
    "a range without numbers": ("seed=range(0,nan)", JOBS),
    "a huge range": (f"seed=range(0,{'9' * 3000})", JOBS),
    "a fine range": ("seed=range(0,1,1e-300)", JOBS),
    "a range of no option": ("x=range(0,1e9)", JOBS),
    "a sorted range": ("seed=sort(range(0,1e9))", JOBS),
    "a shuffled range": ("seed=shuffle(range(0,1e9))", JOBS),
    "many values": ("seed=" + "1," * 1500 + "1", JOBS),
    "a range backwards": ("seed=range(5,0)", "seed=range(5,0): has no values, so that there are no jobs"),
    "a number as launcher": ("hydra/launcher=1e999", PLUGIN),
    "a list as launcher": ("hydra/launcher=[basic]", PLUGIN),
    "a class as launcher": ("hydra.launcher._target_=os.system", PLUGIN),
    "several launchers": ("hydra/launcher=basic,basic", ONE_VALUE),
    "a range of launchers": ("hydra.launcher.x=range(0,1e9)", ONE_VALUE),
    "no launcher": ("~hydra/launcher", ONE_VALUE),
    "a launcher elsewhere": ("hydra/launcher@hydra.callbacks=basic", ONE_VALUE),
    "a launcher of no folder": ("hydra/launcher=../../x", NOT_USED),
    "a sweeper's own options": ("+hydra.sweeper.params={hydra.run.dir: x}", "x}: cannot be composed"),
}  # fmt: skip


@pytest.mark.parametrize(("typed", "reason"), ABSURD.values(), ids=ABSURD)
def test_an_absurd_override_is_one_bounded_error(slim_conf, typed, reason):
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        compose_runs(prepare_overrides([typed]), None, sweep=True)
    assert time.process_time() - start < 5
    [error] = caught.value.errors
    assert reason in error
    assert len(error) < 4500


def test_too_many_overrides_are_one_error():
    with pytest.raises(ConfigError, match="2,000 options were typed; a command takes at most 1,000"):
        prepare_overrides(["seed=1"] * 2000)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -3, 1e-05, 2.5, "gpt2", "my_package.rate", "a/b-c.jsonl", "true", "Null", "nan", "1e3", "12", "", " a b ",
     "it's, [x]", "한국", {"a": 1, "b": [True, "null"]}, [1, "two", None]],
    ids=repr,
)  # fmt: skip
def test_a_formatted_value_is_read_as_itself(value):
    assert read_override(f"name={format_value(value)}").value() == value

"""`hydra/launcher=` of a sweep: which one was chosen, with its checked settings, and the way through Hydra's interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dialog_trainer.cli.compose import compose_config
from dialog_trainer.config.launchers import check_launcher
from dialog_trainer.sweeps.plan import SweepPlan


@dataclass(frozen=True, slots=True)
class ChosenLauncher:
    """`settings` are checked; `config` is what Hydra composed."""

    name: str
    settings: Mapping[str, Any]
    config: DictConfig

    @property
    def submits(self) -> bool:
        """Whether the jobs outlive the command."""
        return self.name != "local"

    def launch(self, run: Callable[[], int], plan: SweepPlan) -> int:
        """Has Hydra's launcher call `run`; returns its exit code."""
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=None,  # type: ignore[arg-type]  # its loader composes jobs, which are composed already
            task_function=lambda _: run(),
            config=self.config,
        )
        [code] = launcher.launch([job.overrides for job in plan.jobs.values()], 0)
        return int(code)  # type: ignore[call-overload, no-any-return]  # of our own launcher, which gives no JobReturn


def choose_launcher(overrides: list[str], config_dir: str | None) -> ChosenLauncher:
    """That of the command line. Raises `ConfigError` for settings that are out of range."""
    shared = [line for line in overrides if line.lstrip("+").startswith(("hydra/launcher=", "hydra.launcher."))]
    config = compose_config(shared, config_dir, RunMode.MULTIRUN)
    name = config.hydra.runtime.choices["hydra/launcher"]
    values: dict[str, Any] = OmegaConf.to_container(config.hydra.launcher)  # type: ignore[assignment]
    return ChosenLauncher(name, check_launcher(name, values), config)

"""What a plugin can add to alignkit: the whole contract, on one screen.

A plugin is a module named in the entry-point group `alignkit`; it implements any of these with `@hookimpl` of
`alignkit.plugin` and calls `register` once for each thing it adds. A class's `name` is what users type. Modules are
imported to list them, so import torch and vllm inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from typer import Typer

    from alignkit.data.reading.dataset import Dataset
    from alignkit.judging.metric import Metric
    from alignkit.methods import Method
    from alignkit.presets import Preset
    from alignkit.rollouts.sampler import Sampler
    from alignkit.scoring.judge import Judge
    from alignkit.tracking import Tracker

hookspec = pluggy.HookspecMarker("alignkit")


@hookspec
def register_methods(register: Callable[[type[Method]], None]) -> None:
    """Add training methods: `alignkit train NAME`."""


@hookspec
def register_judges(register: Callable[[type[Judge]], None]) -> None:
    """Add judges: `--reward NAME` in training, `--judge NAME` in judging."""


@hookspec
def register_datasets(register: Callable[[type[Dataset]], None]) -> None:
    """Add data sets: `--data NAME`."""


@hookspec
def register_samplers(register: Callable[[type[Sampler]], None]) -> None:
    """Add what generates text: `--sampler NAME`."""


@hookspec
def register_trackers(register: Callable[[type[Tracker]], None]) -> None:
    """Add places that metrics are sent to: `--track NAME`."""


@hookspec
def register_metrics(register: Callable[[type[Metric]], None]) -> None:
    """Add metrics of judging: in each verdict, its table and the report."""


@hookspec
def register_presets(register: Callable[[type[Preset]], None]) -> None:
    """Add named set-ups: `alignkit init --NAME`."""


@hookspec
def register_commands(register: Callable[[Typer | Callable[..., None]], None]) -> None:
    """Add commands: `alignkit NAME`, a function that Typer can read, or a Typer app with a name."""

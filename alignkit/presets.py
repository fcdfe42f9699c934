"""Named set-ups: what `alignkit init --NAME` writes into alignkit.toml, with the reason beside each value.

A plugin registers a `Preset`. Without a name, `init` writes what fits this machine (cli/setups.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Machine:
    """The device that trains, and the room there is.

    Args:
        device: "cuda" or "cpu".
        device_name: the GPU's name, or the number of CPU cores this process may use.
        device_gib: memory of the device in GiB (the machine's own without a GPU).
        memory_gib: memory of the machine in GiB.
        disk_gib: free disk below the working folder in GiB.
        hub_problem: why the Hugging Face hub cannot be used, or None.
    """

    device: str
    device_name: str
    device_gib: float
    memory_gib: float
    disk_gib: float
    hub_problem: str | None = None


@dataclass(frozen=True)
class Line:
    """One key, its value and the reason for it."""

    key: str
    value: object
    why: str


@dataclass(frozen=True)
class Setup:
    """An alignkit.toml to be.

    Args:
        head: comment lines at its top.
        tables: the lines of each table, by name: "model", "data", "train.grpo".
        notes: what is told beside, such as what this machine lacks for it.
    """

    head: Sequence[str]
    tables: Mapping[str, Sequence[Line]]
    notes: Sequence[str] = ()


class Preset(ABC):
    """A named set-up."""

    name: ClassVar[str]
    """What users type: `alignkit init --NAME`."""
    help: ClassVar[str]
    """Its line in `alignkit init --help`."""
    model: ClassVar[str]
    data: ClassVar[str]
    needs_hub: ClassVar[bool] = True
    """Whether its model or its data come from the hub. Where that is not reached, `init` proposes those of one that
    needs none."""
    can_be_changed: ClassVar[bool] = True
    """Whether `--model` and `--data` may name others."""

    def tournament(self) -> Mapping[str, Any] | None:
        """Return the tables of a tournament, for `alignkit tournament --preset NAME`, as alignkit.toml has them.

        "entrants" holds a table by each entrant's name, "tournament" and the sections what all share, "train" options
        of every run. "notes" are sentences for below the table, "beside" a published table of the same entrants:
        its "title", "rows" by a measure's key and entrant as printed, and "notes".
        None: this is a set-up alone.
        """
        return None

    @abstractmethod
    def setup(self, machine: Machine, *, model: str, data: str) -> Setup:
        """Return the set-up for a machine, with this model and these data."""


def cpu_lines() -> list[Line]:
    """Training options for a few steps on a CPU."""
    return [
        Line("max_steps", 100, "no GPU: ends after these steps; leave it out to train all epochs"),
        Line("batch_size", 8, "prompts per optimizer step: steadier than four at few steps"),
        Line("checkpoint_interval", 50, "an interrupted run loses at most 50 steps"),
        Line("sample_interval", 50, "samples to read at half time and at the end"),
    ]

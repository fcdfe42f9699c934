"""All that a plugin may import from alignkit. Every other module is private and may change without notice.

Each name is looked up on first use, so that a plugin waits only for what it needs. The classes to derive from, their
records and the errors import no torch. What works on models, token ids or servers may: import those names inside
functions, so that listing plugins stays quick. docs/plugins.md says what each name is for.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignkit.api import train
    from alignkit.config.settings import ModelSection
    from alignkit.data.chat.chat import Chat, make_chat, refuse_ids_without_rows
    from alignkit.data.reading.dataset import Dataset
    from alignkit.data.trees.packs import lay_out, pack
    from alignkit.data.trees.trees import Tree, tree
    from alignkit.errors import AlignkitError, InputError, RunStopped, UsageError, nearest
    from alignkit.judging.answers import Answers
    from alignkit.judging.auto import newest_run
    from alignkit.judging.metric import Metric
    from alignkit.judging.scores import values
    from alignkit.methods import (
        Batch,
        Method,
        MethodConfig,
        PairsConfig,
        SampledConfig,
        leave_one_out_baseline,
        paper_numbers,
        preference_loss,
    )
    from alignkit.options import IN_HELP, IN_HELP_ALL, NO_FLAG
    from alignkit.policy.load import autocast_type, load_policy, pick_device
    from alignkit.policy.policy import Policy
    from alignkit.presets import Line, Machine, Preset, Setup, cpu_lines
    from alignkit.pretrained import embedded
    from alignkit.pretrained.names import ModelSource, find_model
    from alignkit.pretrained.read import context_length, load_tokenizer
    from alignkit.pretrained.weights import check_weights, settings_fingerprint, weight_files
    from alignkit.progress import Progress
    from alignkit.registry import hookimpl
    from alignkit.rollouts.batched import BatchedGeneration
    from alignkit.rollouts.beam_generation import BeamGeneration
    from alignkit.rollouts.beams import Candidates, beam_search
    from alignkit.rollouts.copying import CopyingSampler
    from alignkit.rollouts.sampler import Completion, Request, Sampler
    from alignkit.scoring.judge import Item, Judge, JudgeConfig, Missing, Scored, unreadable
    from alignkit.scoring.remote.judge import ClientConfig, RemoteJudge
    from alignkit.scoring.remote.keys import read_key
    from alignkit.scoring.votes import Votes
    from alignkit.services.http import NotAnswered, Requests, Stopped
    from alignkit.services.spreading import ServerDown, Spread
    from alignkit.statistics.win_rate import win_rate
    from alignkit.storage import check_path, put_file_in_place, read_object
    from alignkit.tracking import Tracker, needs_extra
    from alignkit.units import Chosen, Labelled, Pairs, Samples, Unit
    from alignkit.voting.rows import voted_rows

_PLACES = {
    "AlignkitError": "alignkit.errors",
    "Answers": "alignkit.judging.answers",
    "Batch": "alignkit.methods",
    "BatchedGeneration": "alignkit.rollouts.batched",
    "BeamGeneration": "alignkit.rollouts.beam_generation",
    "Candidates": "alignkit.rollouts.beams",
    "Chat": "alignkit.data.chat.chat",
    "Chosen": "alignkit.units",
    "ClientConfig": "alignkit.scoring.remote.judge",
    "Completion": "alignkit.rollouts.sampler",
    "CopyingSampler": "alignkit.rollouts.copying",
    "Dataset": "alignkit.data.reading.dataset",
    "IN_HELP": "alignkit.options",
    "IN_HELP_ALL": "alignkit.options",
    "InputError": "alignkit.errors",
    "Item": "alignkit.scoring.judge",
    "Judge": "alignkit.scoring.judge",
    "JudgeConfig": "alignkit.scoring.judge",
    "Labelled": "alignkit.units",
    "Line": "alignkit.presets",
    "Machine": "alignkit.presets",
    "Method": "alignkit.methods",
    "MethodConfig": "alignkit.methods",
    "Metric": "alignkit.judging.metric",
    "Missing": "alignkit.scoring.judge",
    "ModelSection": "alignkit.config.settings",
    "ModelSource": "alignkit.pretrained.names",
    "NO_FLAG": "alignkit.options",
    "NotAnswered": "alignkit.services.http",
    "Pairs": "alignkit.units",
    "PairsConfig": "alignkit.methods",
    "Policy": "alignkit.policy.policy",
    "Preset": "alignkit.presets",
    "Progress": "alignkit.progress",
    "RemoteJudge": "alignkit.scoring.remote.judge",
    "Request": "alignkit.rollouts.sampler",
    "Requests": "alignkit.services.http",
    "RunStopped": "alignkit.errors",
    "SampledConfig": "alignkit.methods",
    "Sampler": "alignkit.rollouts.sampler",
    "Samples": "alignkit.units",
    "Scored": "alignkit.scoring.judge",
    "ServerDown": "alignkit.services.spreading",
    "Setup": "alignkit.presets",
    "Spread": "alignkit.services.spreading",
    "Stopped": "alignkit.services.http",
    "Tracker": "alignkit.tracking",
    "Tree": "alignkit.data.trees.trees",
    "Unit": "alignkit.units",
    "UsageError": "alignkit.errors",
    "Votes": "alignkit.scoring.votes",
    "autocast_type": "alignkit.policy.load",
    "beam_search": "alignkit.rollouts.beams",
    "check_path": "alignkit.storage",
    "check_weights": "alignkit.pretrained.weights",
    "context_length": "alignkit.pretrained.read",
    "cpu_lines": "alignkit.presets",
    "embedded": "alignkit.pretrained",
    "find_model": "alignkit.pretrained.names",
    "hookimpl": "alignkit.registry",
    "lay_out": "alignkit.data.trees.packs",
    "leave_one_out_baseline": "alignkit.methods",
    "load_policy": "alignkit.policy.load",
    "load_tokenizer": "alignkit.pretrained.read",
    "make_chat": "alignkit.data.chat.chat",
    "nearest": "alignkit.errors",
    "needs_extra": "alignkit.tracking",
    "newest_run": "alignkit.judging.auto",
    "pack": "alignkit.data.trees.packs",
    "paper_numbers": "alignkit.methods",
    "pick_device": "alignkit.policy.load",
    "preference_loss": "alignkit.methods",
    "put_file_in_place": "alignkit.storage",
    "read_key": "alignkit.scoring.remote.keys",
    "read_object": "alignkit.storage",
    "refuse_ids_without_rows": "alignkit.data.chat.chat",
    "settings_fingerprint": "alignkit.pretrained.weights",
    "train": "alignkit.api",
    "tree": "alignkit.data.trees.trees",
    "unreadable": "alignkit.scoring.judge",
    "values": "alignkit.judging.scores",
    "voted_rows": "alignkit.voting.rows",
    "weight_files": "alignkit.pretrained.weights",
    "win_rate": "alignkit.statistics.win_rate",
}

__all__ = [
    "IN_HELP",
    "IN_HELP_ALL",
    "NO_FLAG",
    "AlignkitError",
    "Answers",
    "Batch",
    "BatchedGeneration",
    "BeamGeneration",
    "Candidates",
    "Chat",
    "Chosen",
    "ClientConfig",
    "Completion",
    "CopyingSampler",
    "Dataset",
    "InputError",
    "Item",
    "Judge",
    "JudgeConfig",
    "Labelled",
    "Line",
    "Machine",
    "Method",
    "MethodConfig",
    "Metric",
    "Missing",
    "ModelSection",
    "ModelSource",
    "NotAnswered",
    "Pairs",
    "PairsConfig",
    "Policy",
    "Preset",
    "Progress",
    "RemoteJudge",
    "Request",
    "Requests",
    "RunStopped",
    "SampledConfig",
    "Sampler",
    "Samples",
    "Scored",
    "ServerDown",
    "Setup",
    "Spread",
    "Stopped",
    "Tracker",
    "Tree",
    "Unit",
    "UsageError",
    "Votes",
    "autocast_type",
    "beam_search",
    "check_path",
    "check_weights",
    "context_length",
    "cpu_lines",
    "embedded",
    "find_model",
    "hookimpl",
    "lay_out",
    "leave_one_out_baseline",
    "load_policy",
    "load_tokenizer",
    "make_chat",
    "nearest",
    "needs_extra",
    "newest_run",
    "pack",
    "paper_numbers",
    "pick_device",
    "preference_loss",
    "put_file_in_place",
    "read_key",
    "read_object",
    "refuse_ids_without_rows",
    "settings_fingerprint",
    "train",
    "tree",
    "unreadable",
    "values",
    "voted_rows",
    "weight_files",
    "win_rate",
]

if not TYPE_CHECKING:  # so that a type checker refuses a name that is not listed above

    def __getattr__(name: str) -> object:
        if name in _PLACES:
            return resolve_name(f"{_PLACES[name]}.{name}")  # imports a module, where the name is one
        raise AttributeError(f"alignkit.plugin has no {name!r}: a plugin may import what its __all__ lists")

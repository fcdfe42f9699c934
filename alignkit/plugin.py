"""All that a plugin may import from alignkit. Every other module is private and may change without notice.

The classes to derive from, their records and the errors are here at once and import no torch. What works on models,
token ids or servers is looked up on first use, because some of it imports torch: import those names inside functions,
so that listing plugins stays quick. docs/plugins.md says what each name is for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from alignkit.data.reading.dataset import Dataset
from alignkit.errors import AlignkitError, InputError, RunStopped, UsageError, nearest
from alignkit.judging.metric import Metric
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
from alignkit.presets import Line, Machine, Preset, Setup, cpu_lines
from alignkit.pretrained import embedded
from alignkit.progress import Progress
from alignkit.registry import hookimpl
from alignkit.rollouts.copying import CopyingSampler
from alignkit.rollouts.sampler import Completion, Request, Sampler
from alignkit.scoring.judge import Item, Judge, JudgeConfig, Missing, Scored, unreadable
from alignkit.scoring.remote.judge import ClientConfig, RemoteJudge
from alignkit.scoring.remote.keys import read_key
from alignkit.storage import check_path, put_file_in_place, read_object
from alignkit.tracking import Tracker, needs_extra
from alignkit.units import Chosen, Labelled, Pairs, Samples, Unit

if TYPE_CHECKING:
    from alignkit.api import train
    from alignkit.config.settings import ModelSection
    from alignkit.data.chat.chat import Chat, make_chat, refuse_ids_without_rows
    from alignkit.data.trees.packs import lay_out, pack
    from alignkit.data.trees.trees import Tree, tree
    from alignkit.judging.answers import Answers
    from alignkit.judging.auto import newest_run
    from alignkit.judging.scores import values
    from alignkit.policy.load import autocast_type, load_policy, pick_device
    from alignkit.policy.policy import Policy
    from alignkit.pretrained.names import ModelSource, find_model
    from alignkit.pretrained.read import context_length, load_tokenizer
    from alignkit.pretrained.weights import check_weights, settings_fingerprint, weight_files
    from alignkit.rollouts.batched import BatchedGeneration
    from alignkit.rollouts.beam_generation import BeamGeneration
    from alignkit.rollouts.beams import Candidates, beam_search
    from alignkit.scoring.votes import Votes
    from alignkit.services.http import NotAnswered, Requests, Stopped
    from alignkit.services.spreading import ServerDown, Spread
    from alignkit.statistics.win_rate import win_rate
    from alignkit.voting.rows import voted_rows

_ON_FIRST_USE = {
    "Answers": "alignkit.judging.answers",
    "BatchedGeneration": "alignkit.rollouts.batched",
    "BeamGeneration": "alignkit.rollouts.beam_generation",
    "Candidates": "alignkit.rollouts.beams",
    "Chat": "alignkit.data.chat.chat",
    "ModelSection": "alignkit.config.settings",
    "ModelSource": "alignkit.pretrained.names",
    "NotAnswered": "alignkit.services.http",
    "Policy": "alignkit.policy.policy",
    "Requests": "alignkit.services.http",
    "ServerDown": "alignkit.services.spreading",
    "Spread": "alignkit.services.spreading",
    "Stopped": "alignkit.services.http",
    "Tree": "alignkit.data.trees.trees",
    "Votes": "alignkit.scoring.votes",
    "autocast_type": "alignkit.policy.load",
    "beam_search": "alignkit.rollouts.beams",
    "check_weights": "alignkit.pretrained.weights",
    "context_length": "alignkit.pretrained.read",
    "find_model": "alignkit.pretrained.names",
    "lay_out": "alignkit.data.trees.packs",
    "load_policy": "alignkit.policy.load",
    "load_tokenizer": "alignkit.pretrained.read",
    "make_chat": "alignkit.data.chat.chat",
    "newest_run": "alignkit.judging.auto",
    "pack": "alignkit.data.trees.packs",
    "pick_device": "alignkit.policy.load",
    "refuse_ids_without_rows": "alignkit.data.chat.chat",
    "settings_fingerprint": "alignkit.pretrained.weights",
    "train": "alignkit.api",
    "tree": "alignkit.data.trees.trees",
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
        if name in _ON_FIRST_USE:
            return getattr(importlib.import_module(_ON_FIRST_USE[name]), name)
        raise AttributeError(f"alignkit.plugin has no {name!r}: a plugin may import what its __all__ lists")

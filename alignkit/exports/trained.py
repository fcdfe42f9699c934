"""The policy as it was trained: a run's base with its adapter on, or its model where all weights were trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkit.errors import InputError
from alignkit.policy.load import load_policy
from alignkit.policy.policy import Policy
from alignkit.pretrained.names import ModelSource, find_model
from alignkit.pretrained.read import read_config
from alignkit.pretrained.weights import folder_fingerprint
from alignkit.runs import RunRecord

ADAPTER = "adapter"


@dataclass(frozen=True)
class Trained:
    """What is exported.

    Args:
        policy: in fp32, with its adapter where there is one.
        base: the folder under the adapter; None without one.
        note: why the policy is the merged model although an adapter was trained; None where it is not.
    """

    policy: Policy
    base: Path | None
    note: str | None = None


def load_trained(source: ModelSource, record: RunRecord | None) -> Trained:
    """Load a run's policy, or a model's folder.

    A run's own model stands in for base and adapter where these do not give the trained policy any more: it was
    compared with it, adapter on, when the run ended.

    Raises:
        InputError: as `load_policy`.
    """
    scalar_head = is_scorer(source.folder)
    if source.adapter is not None and source.base is not None:
        on = load_policy(source.base, precision="fp32", adapter=source.adapter.folder).eval()
        return Trained(on, source.base)
    base, note = (None, None) if record is None or source.run is None else _base(source, record)
    if base is None:
        return Trained(load_policy(source.folder, precision="fp32", scalar_head=scalar_head).eval(), None, note)
    adapter = source.folder.parent / ADAPTER
    policy = load_policy(base, precision="fp32", scalar_head=scalar_head, adapter=adapter).eval()
    return Trained(policy, base)


def is_scorer(folder: Path) -> bool:
    """Whether a folder's model gives scores, as a reward model does."""
    config: Any = read_config(folder)
    return any(name.endswith("ForSequenceClassification") for name in getattr(config, "architectures", None) or ())


def _base(source: ModelSource, record: RunRecord) -> tuple[Path | None, str | None]:
    """The folder under a run's adapter, or why the run's merged model is taken for it."""
    config = record.content["config"]["model"]
    if config.get("lora_rank") is None:
        return None, None
    if not (source.folder.parent / ADAPTER / "adapter_config.json").exists():
        return None, "the run kept no adapter"
    if config.get("quantize") is not None:
        return None, "the adapter was trained on a base in 4 bits"
    try:
        start = find_model(record.model)
    except InputError:
        return None, f"its base {record.model} is not found"
    if folder_fingerprint(start.folder) != record.fingerprints.get("model"):
        return None, f"its base {record.model} changed since"
    base = start.base if start.base is not None and not is_scorer(source.folder) else start.folder
    if read_config(base).get_text_config().vocab_size != read_config(source.folder).get_text_config().vocab_size:
        return None, "the run added a token to the vocabulary"
    return base, None

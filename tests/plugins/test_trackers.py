"""Trackers beside metrics.jsonl: the same numbers, in the run's folder, and a clear word where a package is missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from tiny_models import tiny_model

import alignkit
from alignkit.errors import UsageError


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("given")
    rows = [{"id": f"r{n}", "prompt": f"Say {n}.", "chosen": f"{n}", "rejected": "no"} for n in range(12)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return {"model": str(tiny_model(folder / "model")), "data": str(folder / "rows.jsonl"), "split": "0.2"}


def test_tensorboard_shows_what_metrics_jsonl_holds(given: dict[str, str], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = alignkit.train("sft", **given, out=str(tmp_path / "run"), track=["tensorboard"], max_steps=3)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert "tokens" in events.Tags()["scalars"]
    for name in ("loss", "grad_norm", "validation/loss"):
        written = run.metrics.filter(run.metrics["name"] == name)
        assert [event.step for event in events.Scalars(name)] == written["step"].to_list()
        assert [event.value for event in events.Scalars(name)] == pytest.approx(written["value"].to_list())


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_a_missing_package_is_said_with_its_extra_before_anything_is_read(
    name: str, given: dict[str, str], tmp_path: Path
) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(UsageError, match=rf"track {name} needs {name}.*pip install 'alignkit\[{name}\]'"):
        alignkit.train("sft", **given, out=str(tmp_path / "run"), track=[name])
    assert not (tmp_path / "run").exists()

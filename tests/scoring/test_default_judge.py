"""Which judge is taken where none is named: one rule for training and judging, by what judges say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.scoring.default import default_judges

RULED = {"id": "a", "rules": [{"kind": "num_words", "max": 3}]}
PLAIN = {"id": "b"}


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)


@pytest.mark.parametrize("role", ["reward", "judge"])
def test_rules_are_taken_where_every_row_has_them_and_come_first(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [judge.name for judge in default_judges([RULED, RULED], role=role)] == ["rules"]
    assert default_judges([RULED, PLAIN], role=role) == []
    monkeypatch.setenv("NVIDIA_API_KEY", "nvapi-none")
    assert [judge.name for judge in default_judges([RULED], role=role)] == ["rules", "nemotron"]
    assert [judge.name for judge in default_judges([PLAIN], role=role)] == ["nemotron"]


def test_the_newest_reward_run_judges_but_is_no_reward_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit.judging.auto.newest_run", lambda *, method: Path("runs") / f"{method}-7")
    assert default_judges([PLAIN], role="reward") == []
    [judge] = default_judges([PLAIN], role="judge")
    assert judge.default_spec() == "runs/reward-7"

"""Third parties' plugins, really installed: a good one is used like alignkit's own, a bad one ends nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import TESTS
from tiny_models import tiny_model

SOURCES = TESTS / "third_party"
Run = Callable[..., subprocess.CompletedProcess[str]]

SIMPO_LOSS = """
import math, torch
from alignkit import Batch
from alignkit.registry import registry

SimPO = registry().find("method", "simpo")
config = SimPO.Config(beta=2.0, gamma=0.5)
# One pair: chosen of two tokens with log-probs -1, -2, rejected of one token with -3.
logprob_T = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
batch = Batch(
    logprob_T=logprob_T, completion_T=torch.tensor([0, 0, 1]), group_N=torch.tensor([0, 0]),
    num_tokens_N=torch.tensor([2, 1]), reference_length_N=torch.tensor([0, 0]),
    denominators={"tokens": 3, "completions": 2, "pairs": 1, "groups": 1},
)
loss = SimPO().loss(batch, config)
loss.backward()
margin = 2.0 * (-1.5 - -3.0)
assert math.isclose(loss.item(), math.log(1 + math.exp(-(margin - 0.5))), rel_tol=1e-6), loss
assert logprob_T.grad[0] < 0 < logprob_T.grad[2], logprob_T.grad
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Install the named distributions into a folder of their own; return what runs python with them."""

    def install(*names: str | Path) -> Run:
        folder = tmp_path_factory.mktemp("-".join(Path(name).name for name in names))
        copies = [str(shutil.copytree(SOURCES / name, folder / "src" / Path(name).name)) for name in names]
        uv = str(Path(sys.executable).with_name("uv"))
        options = ["--no-deps", "--no-build-isolation", "--offline", "--target", str(folder / "site")]
        subprocess.run([uv, "pip", "install", "--quiet", "--python", sys.executable, *options, *copies], check=True)
        path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))

        def run(*arguments: str, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, *arguments],
                env=os.environ | {"PYTHONPATH": path},
                cwd=cwd,
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )

        return run

    return install


@pytest.fixture(scope="module")
def good(installed: Callable[..., Run]) -> Run:
    return installed("good")


@pytest.fixture(scope="module")
def bad(installed: Callable[..., Run]) -> Run:
    return installed("good", "broken", "clash")


def listed(run: Run) -> list[dict[str, Any]]:
    done = run("-m", "alignkit", "plugins", "list", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_an_installed_method_and_judge_are_listed_with_their_distribution(good: Run) -> None:
    ours = [p for p in listed(good) if p["distribution"] == "alignkit-simpo"]
    common = {"distribution": "alignkit-simpo", "version": "1.2", "module": "alignkit_simpo", "error": None}
    named = [("method", "simpo"), ("judge", "brevity"), ("metric", "sentences")]
    assert ours == [{"kind": kind, "name": name, **common} for kind, name in named]


def test_an_installed_method_has_its_options_in_its_help(good: Run) -> None:
    done = good("-m", "alignkit", "train", "simpo", "--help")
    assert done.returncode == 0, done.stderr
    assert "--gamma" in done.stdout
    assert "margin that a chosen completion must win by" in done.stdout


def test_an_installed_method_computes_its_equation(good: Run) -> None:
    done = good("-c", SIMPO_LOSS)
    assert done.returncode == 0, done.stderr


def test_an_installed_judge_scores_and_says_what_it_cannot_score(good: Run) -> None:
    code = """
from alignkit.registry import registry
from alignkit.scoring.judge import Item
Brevity = registry().find("judge", "brevity")
items = [Item([], text) for text in ("two words", "this has four words", " ")]
print(Brevity(Brevity.Config(max_words=2)).score(items))
"""
    done = good("-c", code)
    expected = "[Scored(value=1.0), Scored(value=0.0), Missing(reason='the completion is empty', applies=True)]"
    assert done.stdout.strip() == expected, done.stderr


METRIC = """
import json
from pathlib import Path
import alignkit
from alignkit.judging.verdict_text import as_json, table
from alignkit.reports.page import write_report

verdict = alignkit.judge("model", vs="other", judge="brevity", data="rows.jsonl", temperature=1.0, max_new_tokens=32)
write_report(Path("report.html"), title="t", note="n", verdicts=[verdict])
shown = json.loads(as_json(verdict))
measured = [one for one in shown["health"] if one["name"] == "sentences per answer"]
print(json.dumps([shown["ours"]["sentences"], shown["theirs"]["sentences"], measured]))
assert any(row[0] == "sentences per answer" for row in table(verdict))
assert "sentences per answer" in str(verdict)
assert Path("report.html").read_text().count("sentences per answer") == 2
"""


def test_an_installed_metric_stands_in_the_verdict_its_table_and_the_report(good: Run, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model", seed=1)
    tiny_model(tmp_path / "other", seed=2)
    rows = [{"prompt": f"Say {n}"} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = good("-c", METRIC, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours, theirs, [measured] = json.loads(done.stdout.splitlines()[-1])
    assert (measured["ours"], measured["theirs"]) == (ours, theirs) and measured["more_is_better"] is None
    assert measured["low"] <= measured["difference"] <= measured["high"]


@pytest.mark.slow
def test_an_installed_method_trains_and_an_installed_judge_rewards(good: Run, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    rows = [
        {
            "prompt": f"Say {n}",
            "chosen": [{"role": "assistant", "content": f"{n}"}],
            "rejected": [{"role": "assistant", "content": f"{n} and more"}],
        }
        for n in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = ["--model", "model", "--data", "rows.jsonl", "--max-steps", "2"]
    done = good("-m", "alignkit", "train", "simpo", *common, "--out", "simpo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "simpo" / "run.json").read_text(encoding="utf-8"))
    assert "alignkit-simpo" in json.dumps(run)
    assert [line["step"] for line in metrics(tmp_path / "simpo") if line["name"] == "margin"] == [1, 2]
    (tmp_path / "alignkit.toml").write_text("[judge.brevity]\nmax_words = 1\n", encoding="utf-8")
    rewarded = ["--reward", "brevity", "--group-size", "2", "--max-new-tokens", "32", "--out", "grpo"]
    done = good("-m", "alignkit", "train", "grpo", *common, *rewarded, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rewards = [line["value"] for line in metrics(tmp_path / "grpo") if line["name"] == "reward"]
    assert len(rewards) == 2
    assert 0 < sum(rewards) < 2  # random bytes have several words as often as one: max_words was read


def test_a_plugin_that_fails_at_import_is_named_and_the_others_are_listed(bad: Run) -> None:
    rows = listed(bad)
    broken = next(p for p in rows if p["distribution"] == "alignkit-broken")
    assert (broken["kind"], broken["version"], broken["module"]) == ("broken", "0.3", "alignkit_broken")
    assert "a_package_that_is_not_installed" in broken["error"]
    assert {"sft", "dpo", "simpo"} <= {p["name"] for p in rows}
    done = bad("-m", "alignkit", "train", "simpo", "--help")
    assert done.returncode == 0, done.stderr
    assert "alignkit_broken of alignkit-broken 0.3 cannot be loaded" in done.stderr


def test_a_name_claimed_twice_is_an_error_that_names_both_distributions(bad: Run) -> None:
    claims = [p for p in listed(bad) if (p["kind"], p["name"]) == ("method", "sft")]
    assert [p["distribution"] for p in claims] == ["alignkit-clash", "alignkit-plugins"]
    assert all("claimed" in p["error"] for p in claims)
    done = bad("-m", "alignkit", "train", "sft", "--data", "rows.jsonl")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "alignkit-clash 2.0" in done.stderr
    assert "alignkit-plugins" in done.stderr


def test_a_name_claimed_twice_leaves_the_other_methods_usable(bad: Run) -> None:
    done = bad("-m", "alignkit", "train", "dpo", "--help")
    assert done.returncode == 0, done.stderr
    assert "--beta" in done.stdout


@pytest.mark.parametrize("kind", ["method", "judge", "dataset", "tracker"])
def test_a_new_plugin_is_installed_listed_and_passes_its_test(
    kind: str, installed: Callable[..., Run], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "alignkit", "plugins", "new", "my-own", "--kind", kind]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "next: pip install -e alignkit-my-own && alignkit plugins test my-own" in done.stdout
    run = installed(tmp_path / "alignkit-my-own")
    done = run("-m", "alignkit", "plugins", "test", "my-own")
    assert (done.returncode, done.stdout) == (0, f"{kind} my-own of alignkit-my-own: ok\n"), done.stderr
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "alignkit-my-own"))
    assert "1 passed" in done.stdout, done.stdout


def test_plugins_test_ends_with_1_where_one_cannot_be_loaded(bad: Run) -> None:
    done = bad("-m", "alignkit", "plugins", "test", "alignkit-broken")
    assert done.returncode == 1
    assert "a_package_that_is_not_installed" in done.stdout


@pytest.mark.parametrize("name", ["My_Method", "nobody-has-it"])
def test_a_name_that_cannot_be_is_refused(name: str, good: Run) -> None:
    done = good("-m", "alignkit", "plugins", "new" if name == "My_Method" else "test", name)
    assert done.returncode == 2
    assert repr(name) in done.stderr

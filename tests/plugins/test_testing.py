"""alignkit.testing: what ships passes, and each fault is one sentence that says what to change."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from alignkit.plugin import Dataset, Judge, Method, MethodConfig, Missing, Pairs, Samples, Scored, Tracker
from alignkit.registry import Plugin, registry
from alignkit.scoring.ledger import open_ledger
from alignkit.scoring.votes import keep_poll, pair_hash
from alignkit.testing import check, check_dataset, check_judge, check_method, check_tracker
from alignkit.voting.ballots import Ballots
from alignkit.voting.poll import as_poll


class Margin(Method):
    name, Config, trains_on = "margin", MethodConfig, Pairs()

    def loss(self, batch, config):
        chosen, rejected = batch.pairs()
        return batch.mean(rejected.logprob_N - chosen.logprob_N, over="pairs")


class Sampled(Margin):
    trains_on = Samples()

    def loss(self, batch, config):
        return batch.mean(-batch.logprob_T * batch.spread(batch.advantage_N), over="tokens")

    def advantages(self, rewards_PG, config):
        return rewards_PG

    def temperatures(self, step, config):
        return (1.0, 1.0)


class Fixed(Judge):
    name, version = "fixed", "1"

    def score(self, items):
        return [Scored(1.0) for _ in items]


class Rows(Dataset):
    name = "rows"

    def rows(self, part):
        yield {"prompt": "a"}


class Nowhere(Tracker):
    name = "nowhere"

    def log(self, step, metrics, *, tokens_seen):
        pass


@pytest.fixture
def one_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger in which somebody voted: what the data set `votes` yields."""
    monkeypatch.setenv("ALIGNKIT_LEDGER", str(tmp_path / "ledger.sqlite"))
    prompt = [{"role": "user", "content": "Say a number"}]
    pair = pair_hash(prompt, "one", "two")
    content = {"run": "ours", "vs": "theirs", "pairs": [[pair, prompt, "one", "two", 0.5, 1.0]]}
    poll = as_poll("poll", keep_poll(open_ledger(), "poll", content))
    ballots = Ballots(poll, open_ledger())
    ballots.next("Ann")
    ballots.vote("Ann", pair, "first")


@pytest.mark.usefixtures("one_vote")
@pytest.mark.parametrize("plugin", registry().plugins(), ids=lambda plugin: f"{plugin.kind}-{plugin.name}")
def test_what_comes_with_alignkit_keeps_the_contract(plugin: Plugin) -> None:
    assert check(plugin) == []


@pytest.mark.parametrize("cls", [Margin, Sampled])
def test_a_method_that_keeps_the_contract_has_no_findings(cls: type) -> None:
    assert check_method(cls) == []


@pytest.mark.parametrize(
    ("base", "own", "said"),
    [
        (Margin, {"loss": lambda self, batch, config: batch.logprob_T}, "must return a scalar"),
        (Margin, {"loss": lambda self, batch, config: batch.logprob_T.sum() / 0}, "is -inf on a batch of ordinary"),
        (Margin, {"loss": lambda self, batch, config: -batch.logprob_T.mean()}, "divide by nothing but batch.mean"),
        (Margin, {"loss": lambda self, b, c: b.mean(b.logprob_T.detach(), over="tokens")}, "nothing would be learned"),
        (Sampled, {"advantages": lambda self, rewards, config: rewards[0]}, r"gave shape \(2,\) for rewards"),
        (Sampled, {"advantages": lambda self, rewards, config: np.nan_to_num(rewards)}, "nan must stay nan"),
        (Sampled, {"temperatures": lambda self, step, config: ()}, "draws at least one per prompt"),
    ],
)
def test_a_method_that_breaks_the_contract_is_told_how(base: type, own: dict[str, object], said: str) -> None:
    (finding,) = check_method(type("Own", (base,), own))
    assert re.search(said, finding)


def test_a_judge_answers_each_item_with_a_number_or_a_reason() -> None:
    assert check_judge(Fixed) == []
    short = type("Short", (Fixed,), {"score": lambda self, items: [Scored(1.0)]})
    assert check_judge(short) == ["Short.score gave 1 answers to 2 items: give one to each"]
    bare = type("Bare", (Fixed,), {"score": lambda self, items: [1.0, Missing("no")]})
    assert check_judge(bare) == ["Bare.score gave 1.0: give Scored(value) or Missing(reason)"]
    lost = type("Lost", (Fixed,), {"score": lambda self, items: [Scored(float("nan")), Missing("no")]})
    assert check_judge(lost) == ["Lost.score gave nan: what has no score is Missing(reason)"]
    odd = type("Odd", (Fixed,), {"given": lambda self, item: {1, 2}})
    assert "given(item) must hold JSON types" in check_judge(odd)[0]


def test_a_data_set_yields_a_row_of_each_part_and_a_tracker_takes_a_step() -> None:
    assert check_dataset(Rows) == [] == check_tracker(Nowhere)
    empty = type("Empty", (Rows,), {"rows": lambda self, part: iter(())})
    assert check_dataset(empty) == ["Empty.rows('train') yields no row: leave the part out of parts"]


def test_an_error_of_the_plugins_code_is_a_finding() -> None:
    failing = type("Failing", (Fixed,), {"score": lambda self, items: 1 / 0})
    plugin = Plugin("judge", "failing", failing, "third-party", "1", __name__)
    assert check(plugin) == ["Failing raised ZeroDivisionError: division by zero"]

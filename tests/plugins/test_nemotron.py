"""The Nemotron judge: the answers it takes, the errors it obeys, the key it keeps, and what it never sends."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alignkit_plugins.nemotron import Nemotron, NemotronConfig, read_attributes
from chaos_server import ANSWERS, ATTRIBUTES, answer, ask, running, true_score
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.cli.main import main
from alignkit.errors import RunStopped, UsageError
from alignkit.scoring.confirm_cost import confirm_cost
from alignkit.scoring.judge import Item, Missing, Scored
from alignkit.scoring.ledger import open_ledger
from alignkit.scoring.remote.keys import may_carry_key, read_key
from alignkit.scoring.remote.replies import Fatal, Ok, Rejected, Retry, read_reply, retry_after
from alignkit.scoring.specs import NamedJudge
from alignkit.services.addresses import Address, Addresses, Breaker, Lease, TokenBucket

CANARY = "nvapi-canary-0123456789"
QUICK: dict[str, Any] = {
    "requests_per_minute": 1e6,
    "timeout_s": 20.0,
    "backoff_s": 0.002,
    "max_backoff_s": 0.02,
    "max_outage_s": 0.5,
    "max_attempts": 3,
}


def item(text: str, *, prompt: str | list[dict[str, str]] = "Hi") -> Item:
    return Item([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, text)


_made: list[Nemotron] = []


@pytest.fixture(autouse=True)
def closed_judges() -> Iterator[None]:
    yield
    while _made:
        _made.pop().close()


def judge(urls: list[str] | None = None, **options: Any) -> Nemotron:
    """A judge that the test's end closes; without addresses nobody listens to it."""
    _made.append(Nemotron(NemotronConfig(**{**QUICK, "base_url": urls or ["http://127.0.0.1:9/v1"], **options})))
    return _made[-1]


def read(body: dict[str, Any], **options: Any) -> Scored | Missing:
    return judge(**options).read(body, json.dumps(body))


@pytest.mark.parametrize("shape", range(6))
def test_every_form_of_an_answer_gives_its_score(shape: int) -> None:
    assert read(answer(-3.28125, shape)) == Scored(-3.28125)


def test_the_340b_models_five_attributes_make_one_score_by_its_cards_weights() -> None:
    content = ",".join(f"{name}:{value}" for name, value in ATTRIBUTES.items())
    body = {"choices": [{"message": [{"content": content}]}], "id": None}
    expected = 0.3 * 1.5 + 0.74 * 1.25 + 0.46 * 3.0 + 0.47 * 0.5 - 0.33 * 0.75
    scored = read(body)
    assert isinstance(scored, Scored) and scored.value == pytest.approx(expected, abs=1e-12)
    assert read(body, attribute="coherence") == Scored(3.0)
    missing = read(body, attribute="kindness")
    assert isinstance(missing, Missing) and "helpfulness, correctness" in missing.reason


@pytest.mark.parametrize(
    "name",
    ["no-choices", "null-message", "error-in-200", "prose", "nan", "infinite", "half-number", "no-number", "twice"],
)
def test_a_garbled_answer_is_never_a_score(name: str) -> None:
    body = ANSWERS[name]()[1]
    with pytest.raises(ValueError, match="answer"):
        read_attributes(body)


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, width=16))
def test_a_score_comes_back_as_it_was_sent(value: float) -> None:
    assert read_attributes({"choices": [{"message": {"content": f"reward:{value!r}"}}]}) == {"reward": value}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, '{"choices": []}', Ok),
        (200, "<html>", Retry),
        (400, '{"detail": "Function id \'f\': DEGRADED function cannot be invoked"}', Retry),
        (400, '{"detail": "too long"}', Rejected),
        (422, "", Rejected),
        (401, "", Fatal),
        (402, "", Fatal),
        (403, '{"title": "Forbidden", "detail": "Authorization failed"}', Fatal),
        (404, "{\"detail\": \"Function 'f': Not found for account 'a'\"}", Fatal),
        (410, "The model has reached its end of life", Fatal),
        (307, "", Fatal),
        (408, "", Retry),
        (429, '{"status": 429, "title": "Too Many Requests"}', Retry),
        (500, "", Retry),
        (504, "", Retry),
    ],
)
def test_the_retry_table(status: int, body: str, kind: type) -> None:
    assert type(read_reply(status, {}, body.encode())) is kind


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
    assert retry_after("1.5") == 1.5 and retry_after("-3") == 0.0
    assert retry_after("Tue, 24 Nov 2026 12:00:30 GMT", now=now) == 30.0
    assert retry_after("Tue, 24 Nov 2026 11:00:00 GMT", now=now) == 0.0
    assert retry_after(None) is retry_after("soon") is retry_after("nan") is None


@settings(deadline=None)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=60), st.floats(1, 600))
def test_no_minute_has_more_requests_than_the_bucket_allows(gaps: list[float], per_minute: float) -> None:
    bucket, now, sent = TokenBucket(per_minute), 0.0, []
    for gap in gaps:
        now += gap
        now += bucket.delay(now) * (1 + 1e-9)
        bucket.take(now)
        sent.append(now)
    for start in sent:
        assert sum(start <= then < start + 60 for then in sent) <= per_minute + 1 + 1e-6


def test_a_breaker_opens_tries_once_and_doubles_its_cool_down() -> None:
    breaker = Breaker(failures=2, cooldown_s=1.0, max_cooldown_s=3.0)
    breaker.failed(0.0, trial=breaker.sent())
    assert breaker.delay(0.0) == 0
    breaker.failed(0.0, trial=breaker.sent())
    assert breaker.delay(0.25) == 0.75 and breaker.delay(1.0) == 0
    assert breaker.sent() and breaker.delay(1.0) == float("inf")  # one trial at a time
    breaker.failed(1.0, trial=True)
    assert breaker.delay(1.0) == 2.0
    breaker.sent()
    breaker.failed(3.0, trial=True)
    assert breaker.delay(3.0) == 3.0  # not 4
    breaker.worked()
    assert breaker.delay(3.0) == 0 and not breaker.sent()


def test_system_messages_are_folded_or_refused_never_sent() -> None:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    sent = json.loads(judge().body(item("Hello", prompt=prompt)))["messages"]
    assert sent == [{"role": "user", "content": "Be brief.\n\nHi"}, {"role": "assistant", "content": "Hello"}]
    (refused,) = judge(system="refuse").score([item("Hello", prompt=prompt)])
    assert isinstance(refused, Missing) and "system" in refused.reason
    (alone,) = judge().score([item("Hello", prompt=prompt[:1])])
    assert isinstance(alone, Missing)


def test_what_cannot_be_sent_is_missing_and_costs_nothing() -> None:
    with running() as urls:
        scorer = judge(urls, max_length=10)
        long, lone, good = scorer.score([item("x" * 60), item("a\ud800"), item("good")])
        assert isinstance(long, Missing) and "longer than the model's 10 tokens" in long.reason
        assert isinstance(lone, Missing) and "surrogate" in lone.reason
        assert good == Scored(true_score("good"))
        assert ask(urls[0], "sold")["num_requests"] == 1
        (sent,) = judge(urls, max_length=10, too_long="send").score([item("x" * 60)])
        assert sent == Scored(true_score("x" * 60))


def test_a_service_that_is_gone_leaves_scores_missing_with_the_reason_and_soon() -> None:
    began = time.monotonic()
    answers = judge().score([item(f"answer {number}") for number in range(50)])
    assert all(isinstance(a, Missing) and "ConnectError" in a.reason for a in answers)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("fault", ["html", "stall"])
def test_a_fault_that_stays_is_missing_with_its_reason(fault: str) -> None:
    with running(always=fault) as urls:
        (missing,) = judge(urls, timeout_s=0.5).score([item("a")])
    assert isinstance(missing, Missing)
    assert ("text/html in place of JSON" if fault == "html" else "no whole answer within 0.5 s") in missing.reason


def test_an_address_that_answers_with_a_web_page_is_refused_before_anything_is_sent() -> None:
    with running(always="html-page") as urls, pytest.raises(UsageError, match=r"web page.*base_url"):
        judge(urls).ready([])
    with pytest.raises(UsageError, match="cannot be reached"):
        judge().ready([])


def test_without_a_key_the_hosted_service_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)
    with pytest.raises(UsageError, match="set NVIDIA_API_KEY"):
        Nemotron().ready([])


def test_the_key_is_in_no_file_log_message_or_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also where the service repeats the key in its error, and where the client itself breaks."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("NVIDIA_API_KEY", CANARY)
    said = []
    with running(key=CANARY, faults=0.3) as urls:
        named = NamedJudge("nemotron", judge(urls, max_attempts=20, max_outage_s=60.0, timeout_s=4.0))
        assert all(isinstance(a, Scored) for a in named.score([item(f"answer {n}") for n in range(30)]))
    with running(key="another") as urls:
        with pytest.raises(RunStopped, match=r"403 Forbidden.*\[key\].*not accepted") as caught:
            NamedJudge("nemotron", judge(urls)).score([item("refused")])
        said.append(str(caught.getrepr(showlocals=False)))
        config = tmp_path / "a.toml"
        config.write_text(f"[judge.nemotron]\nbase_url = {json.dumps(urls)}\n")
        assert main(["trust", str(config)]) == 0
        assert main(["probe", "nemotron", "--yes", "--config", str(config)]) == 3
    monkeypatch.setenv("NVIDIA_API_KEY", f"{CANARY}\n{CANARY}")
    with pytest.raises(UsageError, match="characters that no key has") as wrong:
        read_key("NVIDIA_API_KEY")
    out, err = capfd.readouterr()
    said += [str(wrong.value), caplog.text, out, err, json.dumps(list(open_ledger().export()))]
    assert "[key]" in err and sum(1 for _ in open_ledger().export()) == 30
    assert not [text for text in said if CANARY in text]
    files = [*Path(os.environ["ALIGNKIT_LEDGER"]).parent.iterdir(), *tmp_path.rglob("*")]
    assert not [path for path in files if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_requests_that_go_on_failing_are_told_of_in_one_counted_line() -> None:
    now, said = [0.0], list[str]()
    one = Address("http://one", TokenBucket(1e6), Breaker(failures=10**6, cooldown_s=1.0, max_cooldown_s=1.0))
    points = Addresses([one], patience_s=600.0, pause_s=1.0, max_pause_s=1.0, clock=lambda: now[0], say=said.append)
    for _ in range(64):
        points.failed(Lease(one, trial=False), "no chat completion")
        now[0] += 1.0
    last = "the last: http://one: no chat completion"
    assert said == [f"6 requests failed or had answers that cannot be used in 5 s; asking goes on; {last}"]
    now[0] += 600.0
    points.slow_down(Lease(one, trial=False), "429", None)
    assert len(said) == 1


def test_a_key_goes_only_to_encrypted_addresses_or_this_machine() -> None:
    assert may_carry_key("https://example.org/v1") and may_carry_key("http://127.0.0.1:8000/v1")
    assert not may_carry_key("http://example.org/v1") and not may_carry_key("http://10.0.0.5/v1")
    with pytest.raises(ValueError, match="belongs in the environment"):
        NemotronConfig(base_url=["https://me:secret@example.org/v1"])


def test_money_is_spent_only_after_it_was_agreed_to(capsys: pytest.CaptureFixture[str]) -> None:
    named = [NamedJudge("nemotron", judge(requests_per_minute=35, price_per_1000=2.0))]
    with pytest.raises(UsageError, match="agree with --yes"):
        confirm_cost(named, 4000, yes=False)
    shown = capsys.readouterr().err
    assert "at most 4,000 requests" in shown and "1.9 h" in shown and "about 8.00" in shown
    confirm_cost(named, 4000, yes=True)
    confirm_cost(named, 4000, yes=False, unattended=True)

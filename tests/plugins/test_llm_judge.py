"""The pairwise judge over a chat endpoint: both orders, flips, tie rules; and what is missing stays missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from alignkit_plugins.llm_judge import LLMConfig, LLMJudge

from alignkit.errors import UsageError
from alignkit.judging.scores import outcome, score_both
from alignkit.scoring.judge import Item, Missing, Scored
from alignkit.scoring.specs import NamedJudge


class Chat(BaseHTTPRequestHandler):
    """Prefers the answer with more "good" in it; between equals the first; says nothing where "mute" is in one."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((request, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        text = request["messages"][-1]["content"]
        first, second = (text.partition(f"<answer {x}>")[2].partition(f"</answer {x}>")[0] for x in "AB")
        goods = first.count("good") - second.count("good")
        mark = "[[C]]" if "tie" in text else "[[A]]" if goods >= 0 else "[[B]]"
        said = "I cannot say." if "mute" in text else f"<think>[[B]]?</think>Not [[C]], I think: {mark}"
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def chat() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def llm(server: ThreadingHTTPServer, **options: Any) -> NamedJudge:
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    config = LLMConfig(base_url=[url], model="m", requests_per_minute=1e6, **options)
    return NamedJudge("llm", LLMJudge(config))


def items(*texts: str) -> list[Item]:
    return [Item([{"role": "user", "content": f"Prompt {number}"}], text) for number, text in enumerate(texts)]


def test_both_orders_decide_flips_are_ties_and_nothing_is_asked_twice(chat: ThreadingHTTPServer) -> None:
    named = llm(chat)
    ours, theirs = items("good", "x", "same", "tie", "mute"), items("y", "good", "equal", "z", "w")
    for _ in range(2):
        both = score_both(named, ours, theirs)
        assert both.ours[:4] == [Scored(1.0), Scored(0.0), Scored(0.5), Scored(0.5)]
        assert both.theirs[:4] == [Scored(0.0), Scored(1.0), Scored(0.5), Scored(0.5)]
        assert isinstance(both.ours[4], Missing) and "I cannot say" in both.ours[4].reason
        assert (both.num_compared, both.num_flipped, both.num_first) == (4, 1, 1)
        assert both.flip_note is not None and "1 of 4 prompts (25 %)" in both.flip_note
    assert len(chat.asked) == 10 + 2  # type: ignore[attr-defined]  # the missing ones are asked again
    request, key = chat.asked[0]  # type: ignore[attr-defined]
    assert key is None and request["temperature"] == 0 and request["model"] == "m"
    named.judge.close()


def test_the_judges_own_variable_holds_its_key(chat: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1")
    monkeypatch.setenv("NVIDIA_API_KEY", "nvapi-not-for-others")
    named = llm(chat, key_variable="MY_KEY")
    score_both(named, items("good"), items("y"))
    assert {key for _, key in chat.asked} == {"Bearer secret-1"}  # type: ignore[attr-defined]
    named.judge.close()
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UsageError, match="set MY_KEY"):
        llm(chat, key_variable="MY_KEY").judge.ready([])


@pytest.mark.parametrize(
    ("said", "finish_reason", "found"),
    [
        ("Both are right, but A says why. [[A]]", "stop", 1.0),
        ("B is better.\n\n**[[B]]**.\n", None, 0.0),
        ("Answer A says [[B]] itself; I find neither better: [[C]]", "stop", 0.5),
        ("Answer A ends with '[[A]]', which is no reason to", "length", "cut off at 512 tokens: raise"),
        ("Looks like [[A]]", "length", "cut off at 512 tokens: raise"),
        ("Answer A quotes [[A]] and is wrong.", "stop", "named no winner at its end"),
        (None, "stop", "named no winner at its end"),
    ],
)
def test_only_a_whole_answer_that_ends_with_a_mark_is_a_verdict(
    said: str | None, finish_reason: str | None, found: float | str
) -> None:
    body = {"choices": [{"message": {"content": said}, "finish_reason": finish_reason}]}
    score = LLMJudge(LLMConfig(base_url=["http://localhost/v1"], model="m")).read(body, str(said))
    if isinstance(found, str):
        assert isinstance(score, Missing) and found in score.reason
    else:
        assert isinstance(score, Scored) and score.value == found


@pytest.mark.parametrize(
    ("forward", "backward", "agree", "lean"),
    [
        (1, 0, 1, 1),
        (0, 1, 0, 0),
        (1, 1, 0.5, 0.5),
        (0, 0, 0.5, 0.5),
        (0.5, 0.5, 0.5, 0.5),
        (1, 0.5, 0.5, 1),
        (0.5, 1, 0.5, 0),
    ],
)
def test_the_tie_rules(forward: float, backward: float, agree: float, lean: float) -> None:
    assert outcome(forward, backward, tie_rule="agree") == agree
    assert outcome(forward, backward, tie_rule="lean") == lean


def test_it_needs_an_address_a_model_and_a_rival() -> None:
    with pytest.raises(UsageError, match="set base_url and model"):
        LLMJudge().ready([])
    with pytest.raises(UsageError, match="compares two answers"):
        LLMJudge(LLMConfig(base_url=["http://127.0.0.1:9/v1"], model="m")).score(items("a"))

"""A template is untrusted code: what loops, allocates or reaches out ends with one error, and the rest goes on."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from alignkit.data.chat import template as limits
from alignkit.data.chat.template import Rendering, Template, texts
from alignkit.errors import InputError

MESSAGES = [{"role": "user", "content": "Hi"}]
NOW = "2026-01-31T00:00:00"


def render(text: str, *, watched: bool = False) -> tuple[str, bool] | InputError:
    (answer,) = Template(text, values={}, now=NOW).render([Rendering(MESSAGES, True, watched)])
    return answer


def refusal(text: str) -> str:
    answer = render(text)
    assert isinstance(answer, InputError), answer
    return str(answer)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "makes more than 1,000,000"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'a' * 10**10 }}", "needs more than 1,024 MiB of memory"),
        ("{{ '%1000000000000d' % 1 }}", "needs more than 1,024 MiB of memory"),
        ("{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}", "more than 16,000,000 characters"),
        ("{{ ''.__class__.__mro__ }}", "reaches for what a template must not have: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "reaches for what a template must not have: access to attribute 'append'"),
        ("{{ raise_exception('roles must alternate') }}", "refuses this conversation: roles must alternate"),
        ("{% for tool in tools %}{% endfor %}", "needs a list of tools, which the rows here do not have"),
        ("{% for %}", "no valid Jinja: line 1: "),
        ("{{ messages[0].content.no.such }}", "refuses this conversation"),
        ("{% include 'file' %}", "refuses this conversation"),
    ],
)
def test_a_template_out_of_bounds_is_one_error(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_template_that_runs_too_long_is_ended_and_those_beside_it_are_rendered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "CPU_S", 0.3)
    deep = "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    template = Template(
        "{% if messages[0].content == 'loop' %}" + deep + "{{ ns.x }}{% endif %}{{ messages[0].content }}",
        values={},
        now=NOW,
    )
    said = [Rendering([{"role": "user", "content": content}], False) for content in ("a", "loop", "b")]
    first, second, third = template.render(said)
    assert first == ("a", False) and third == ("b", False)
    assert isinstance(second, InputError) and "runs for more than 0.3 s: it may loop for ever" in str(second)


@pytest.mark.parametrize(
    ("text", "looks"),
    [
        ("{{ messages[0].content }}", False),
        ("{{ '<' + messages[0]['content'] + '>' }}", False),
        ("{{ messages[0].content | trim }}", True),
        ("{% if messages[0].content %}{{ messages[0].content }}{% endif %}", True),
        ("{{ '' if '</think>' in messages[0].content else messages[0].content }}", True),
        ("{{ ('x' + messages[0].content).strip() }}", True),
        ("{{ messages[0].content == 'Hi' }}", True),
        ("{{ messages[0].content | length }}", True),
    ],
)
def test_looking_at_a_content_is_noticed(text: str, looks: bool) -> None:
    plain, watched = render(text), render(text, watched=True)
    assert not isinstance(plain, InputError) and not isinstance(watched, InputError)
    assert watched == (plain[0], looks)


def test_loops_know_their_length_and_their_ends() -> None:
    text = "{% for m in 'abc' %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }} {% endfor %}"
    assert texts([render(text)]) == ["1False33 2False32 3True31 "]


def test_the_date_is_the_one_given_and_marks_of_generation_do_nothing() -> None:
    text = "{{ strftime_now('%d %b %Y') }}{% generation %}{{ messages[0].content }}{% endgeneration %}"
    assert texts([render(text)]) == ["31 Jan 2026Hi"]


def test_text_of_every_kind_comes_back_as_it_went() -> None:
    contents = ["\x00", "\ud800", "e\u0301", "\u0627\u0644", "\U0001f600", "x" * 1_000_000, "\n\r\u2028"]
    template = Template("{{ messages[0].content }}", values={}, now=NOW)
    items = [Rendering([{"role": "user", "content": content}], False) for content in contents]
    assert texts(template.render(items)) == contents


def test_all_conversations_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stays below its own limit, and a thousand rows would take an hour."""
    monkeypatch.setattr(limits, "CPU_S", 0.2)
    slow = Template("{% for i in range(90000) %}{{ i }}{% endfor %}", values={}, now=NOW)
    answers = slow.render([Rendering(MESSAGES, False)] * 1000)
    failed = [str(answer) for answer in answers if isinstance(answer, InputError)]
    assert 0 < len(answers) - len(failed) < 100
    assert len(set(failed)) == 1 and "conversations, more than 0.2 s and 20 ms for each; give another" in failed[0]


def test_conversations_that_are_stopped_one_by_one_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CPU_S", 0.15)
    endless = Template(
        "{% for i in range(90000) %}{% if messages %}{{ i ** 9 % 7 }}{% endif %}{% endfor %}" * 9, values={}, now=NOW
    )
    answers = endless.render([Rendering(MESSAGES, False)] * 1000)
    assert all(isinstance(answer, InputError) for answer in answers) and len(answers) == 1000


def test_a_process_that_nobody_asks_ends_without_a_word() -> None:
    code = f"from alignkit.data.chat.template import Template; Template('', values={{}}, now={NOW!r}).start()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_system_that_starts_no_process_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*words: object, **options: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refused)
    said = refusal("{{ messages[0].content }}")
    assert said == "no process can be started for the chat template: Resource temporarily unavailable"

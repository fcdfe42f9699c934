"""A value for the template is read by it, or refused with the nearest name that is."""

from __future__ import annotations

from typing import Any

import pytest
from marked_templates import FOLDER
from tiny_models import tiny_tokenizer

from alignkit.data.chat.chat import CHATML, Chat
from alignkit.data.chat.template_values import TemplateValues
from alignkit.errors import InputError
from alignkit.pretrained.read import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.mark.parametrize(
    ("template", "is_read"),
    [
        ("{{ x }}", True),
        ("{% if x is defined %}a{% endif %}", True),
        ("{% if not x is defined %}{% set x = 'a' %}{% endif %}{{ x }}", True),
        ("{% set x = x | default('a') %}{{ x }}", True),
        ("{% if messages %}{% set x = 1 %}{% elif y %}{% set x = 2 %}{% endif %}{{ x }}", True),
        ("{% for m in messages %}{% set x = m %}{% endfor %}{{ x }}", True),  # what a loop sets is gone behind it
        ("{% macro f(y) %}{{ y }}{{ x }}{% endmacro %}{{ f(1) }}", True),
        ("{% for m in messages if x %}{% endfor %}", True),
        ("{{ messages | selectattr('role', 'equalto', x) | list }}", True),
        ("{% filter indent(x) %}a{% endfilter %}", True),
        ("{% generation %}{{ x }}{% endgeneration %}", True),
        ("{{ messages[0].x }}", False),
        ("{{ messages[0]['x'] }}{# x #}x", False),
        ("{% set x = 'a' %}{{ x }}", False),
        ("{% if messages %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{{ x }}", False),
        ("{% if messages %}{% set x = 1 %}{% else %}{{ raise_exception('none') }}{% endif %}{{ x }}", False),
        ("{% set x %}a{% endset %}{{ x }}", False),
        ("{% for x in messages %}{{ x }}{% endfor %}", False),
        ("{% for a, x in messages %}{{ x }}{% else %}{% endfor %}", False),
        ("{% macro f(x) %}{{ x }}{% endmacro %}{{ f(1) }}", False),
        ("{% with x = 1 %}{{ x }}{% endwith %}", False),
        ("{% macro x() %}{{ x() }}{% endmacro %}{{ x() }}", False),
        ("{% set ns = namespace(x=1) %}{% set ns.x = 2 %}{{ ns.x }}", False),
    ],
)
def test_a_value_is_read_where_the_template_may_see_it(template: str, is_read: bool) -> None:
    assert TemplateValues(template).reads("x") is is_read


def test_a_template_that_is_no_jinja_is_left_to_rendering() -> None:
    assert TemplateValues("{% if %}").reads("x")
    assert TemplateValues("{{ " + "(" * 5000).reads("x")


@pytest.mark.parametrize(
    ("template", "given", "said"),
    [
        ("llama-3.1-instruct", "today", "never reads 'today' .*; did you mean 'date_string'"),
        ("llama-3.1-instruct", "date_sting", "never reads 'date_sting' .*; did you mean 'date_string'"),
        ("llama-3.1-instruct", "system_message", "never reads 'system_message'"),  # it sets its own
        ("qwen3", "enable_thinkin", "never reads .*; did you mean 'enable_thinking'"),
        ("qwen2.5-instruct", "enable_thinking", r"never reads .*\(nor any other value\)"),
        ("qwen3", "messages", "never reads 'messages'"),
        ("qwen3", "add_generation_prompt", "never reads"),
    ],
)
@pytest.mark.skipif(not FOLDER.exists(), reason="the shared real data is not here")
def test_a_value_that_is_never_read_is_refused_with_the_nearest(
    tokenizer: Any, template: str, given: str, said: str
) -> None:
    with pytest.raises(InputError, match=f"^--template-kwargs {given}: the chat template {said}"):
        Chat(tokenizer, template=str(FOLDER / f"{template}.jinja"), template_kwargs={given: "2026-01-31"})


@pytest.mark.skipif(not FOLDER.exists(), reason="the shared real data is not here")
def test_the_date_is_the_one_given_or_the_templates_own_which_is_said(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    asked = [{"role": "user", "content": "Hi"}]
    caplog.set_level("WARNING")  # whatever a test before this one left

    def prompt(name: str, **values: object) -> str:
        caplog.clear()
        return Chat(tokenizer, template=str(FOLDER / f"{name}.jinja"), template_kwargs=values).prompt(asked)

    assert "Today Date: 26 Jul 2024" in prompt("llama-3.1-instruct")
    assert "a fixed date into prompts, 26 Jul 2024; another is given by --template-kwargs date_string=" in caplog.text
    assert "Today Date: 1 May 2026" in prompt("llama-3.1-instruct", date_string="1 May 2026") and not caplog.text
    assert "Today Date: 1 May 2026" in prompt("llama-3.2-instruct", date_string="1 May 2026") and not caplog.text
    assert "Today Date: 31 Jan 2026" in prompt("llama-3.2-instruct", today="2026-01-31") and not caplog.text
    prompt("llama-3.2-instruct")
    assert "the chat template writes today's date" in caplog.text
    prompt("qwen3")
    assert not caplog.text


def test_any_default_of_a_date_is_seen() -> None:
    assert TemplateValues("{{ date_string | default('1 Jan') }}").fixed_dates == {"date_string": "1 Jan"}
    assert TemplateValues("{% set date = '1 Jan' %}{{ date }}").fixed_dates == {}  # nobody can give another
    assert TemplateValues(CHATML).fixed_dates == {}

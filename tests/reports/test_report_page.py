"""The report: one file, safe with any text of a model, readable without a network."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignkit.errors import RunStopped
from alignkit.judging.bleu import Bleu
from alignkit.judging.verdict import JudgeName, Verdict, make_verdict
from alignkit.reports.page import Column, Curve, Example, Section, write_report
from alignkit.statistics.win_rate import win_rate

EVIL = "</script><script>alert('from the model')</script><img src=x onerror=alert(1)>"
TABLE = [
    Column("entrant", "entrant"),
    Column("start", "start"),
    Column("win_rate", "win rate against base, %", low="low", high="high", line=50, note="ties half"),
    Column("bleu4", "BLEU-4"),
]
ROWS: list[dict[str, Any]] = [
    {"entrant": "base", "start": None, "win_rate": None, "low": None, "high": None, "bleu4": 4.0},
    {"entrant": "sft", "start": "base", "win_rate": 58.26, "low": 55.1, "high": 61.4, "bleu4": 12.345},
]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Everything a test asks of a page: elements with their attributes, text outside scripts, script bodies."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        where = self._open[-1] if self._open else ""
        (self.scripts if where == "script" else self.styles if where == "style" else self.texts).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def a_verdict() -> Verdict:
    side = {"bleu": Bleu(30, 20, 10, "tok:13a"), "perplexity": 7.0, "mean_length_tokens": 40.0, "repetition": 0.1}
    return make_verdict(
        win_rate(np.array([1.0] * 80 + [0.0] * 40), seed=0),
        run="runs/dpo",
        vs=EVIL,
        margin=3.0,
        ours=side,
        theirs=side,
        judge=JudgeName(name="rules", version="1", verifiable=True),
        prompts="demo",
        seed=0,
        caveats=[f"caveat {EVIL}"],
    )


def curves() -> list[Curve]:
    steps = list(range(1, 41))
    return [
        Curve("Training loss", "optimizer step", "nats", {"sft": (steps, [3.0 - s / 50 for s in steps])}, "sft"),
        Curve("Validation loss", "optimizer step", "nats", {"sft": ([0, 40], [3.1, 2.4375])}, "sft"),
        Curve(EVIL, EVIL, EVIL, {EVIL: ([0, 1], [1.0, 2.0]), "b": ([0, 1], [2.0, float("nan")])}, EVIL),
    ]


def full_page(path: Path) -> Page:
    write_report(
        path,
        title=f"Quickstart {EVIL}",
        note="a demonstration on tasks this project generates, one seed; not a quality benchmark",
        table=TABLE,
        rows=[*ROWS, {**ROWS[1], "entrant": EVIL}],
        curves=curves(),
        examples=[Example(EVIL, {"base": EVIL, "dpo": "short"}, reference=EVIL, scores={"dpo": 0.75, "base": None})],
        verdicts=[a_verdict()],
        sections=[Section("Off-task", EVIL, [TABLE[0], Column("n", "tokens")], [{"entrant": EVIL, "n": 2}])],
    )
    return Page(path.read_text(encoding="utf-8"))


def test_text_of_a_model_stays_text(tmp_path: Path) -> None:
    page = full_page(tmp_path / "report.html")
    assert not page.all("img")
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert not any(script.lstrip().startswith("alert") for script in page.scripts)
    assert len(page.scripts) == 1  # the one that says the numbers under the pointer
    assert EVIL not in page.scripts[0]
    assert page.text.count(EVIL) >= 8


def test_the_page_asks_no_network_for_anything(tmp_path: Path) -> None:
    page = full_page(tmp_path / "report.html")
    fetching = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}
    references = [value for _, attrs in page.elements for name, value in attrs.items() if name in fetching]
    assert references
    assert all(value is not None and value.startswith("#") for value in references)
    assert not any(re.search(r"url\(|@import", style) for style in page.styles)
    assert not page.all("link")
    policy = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert "default-src 'none'" in str(policy[0])


def test_a_page_without_charts_has_no_script(tmp_path: Path) -> None:
    write_report(tmp_path / "plain.html", title="No charts", note="one line")
    plain = Page((tmp_path / "plain.html").read_text(encoding="utf-8"))
    assert plain.scripts == []
    assert "one line" in plain.text


def test_curves_are_on_the_page_under_their_group(tmp_path: Path) -> None:
    page = full_page(tmp_path / "report.html")
    charts = [json.loads(str(attrs["data-series"])) for attrs in page.all("figure") if "data-series" in attrs]
    assert charts[1] == [["sft", [0, 40], [3.1, 2.4375]]]
    assert "Training loss" in page.text
    assert "Validation loss" in page.text
    labels = [attrs["aria-label"] for attrs in page.all("div") if attrs.get("role") == "img"]
    assert "Validation loss by optimizer step; sft: 3.1 at 0, 2.438 at 40, lowest 2.438, highest 3.1" in labels


def test_the_table_shows_numbers_with_intervals_and_dashes(tmp_path: Path) -> None:
    page = full_page(tmp_path / "report.html")
    assert "58.3 55.1 to 61.4" in page.text
    assert "base \N{EN DASH} \N{EN DASH} 4.0" in page.text
    assert {"col", "row"} == {attrs.get("scope") for attrs in page.all("th")}
    assert "not a quality benchmark" in page.text


def test_negative_numbers_have_a_minus_sign(tmp_path: Path) -> None:
    columns = [Column("entrant", "entrant"), Column("d", "difference", digits=2, low="l", high="h", line=0)]
    rows = [{"entrant": "dpo", "d": -1.5, "l": -2.25, "h": -0.75}]
    write_report(tmp_path / "report.html", title="t", note="n", table=columns, rows=rows)
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "\N{MINUS SIGN}1.50 \N{MINUS SIGN}2.25 to \N{MINUS SIGN}0.75" in text


def test_a_verdict_is_shown_with_its_rule_and_caveats(tmp_path: Path) -> None:
    page = full_page(tmp_path / "report.html")
    assert "better: runs/dpo wins 66.7 %" in page.text
    assert "rule: better or worse if the 95 % interval" in page.text
    assert "caveat </script>" in page.text
    assert "80 wins, 0 ties, 40 losses" in page.text


def test_examples_stand_beside_their_reference_and_scores(tmp_path: Path) -> None:
    page = full_page(tmp_path / "report.html")
    assert len(page.all("details")) == 1
    assert f"base {EVIL} dpo 0.75 short reference {EVIL}" in page.text


def test_a_row_without_a_columns_key_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    row = {key: value for key, value in ROWS[1].items() if key != "bleu4"}
    with pytest.raises(KeyError, match="bleu4"):
        write_report(tmp_path / "report.html", title="t", note="n", table=TABLE, rows=[ROWS[0], row])
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_says_where_and_why(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match=r"absent/report\.html: cannot be written: No such file"):
        write_report(tmp_path / "absent" / "report.html", title="t", note="n")


def test_an_unwritten_page_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, title="old", note="n")
    with pytest.raises(KeyError):
        write_report(path, title="new", note="n", table=TABLE, rows=[{}])
    assert "old" in path.read_text(encoding="utf-8")


def test_two_charts_share_no_id_and_style_nothing_else(tmp_path: Path) -> None:
    page = full_page(tmp_path / "report.html")
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)) > 10
    assert len(page.styles) == 1


def test_a_table_wider_than_a_page_is_turned_on_paper_and_paper_is_never_dark(tmp_path: Path) -> None:
    def table(num: int) -> dict[str, str | None]:
        columns = [Column(f"c{n}", f"measure {n}") for n in range(num)]
        write_report(tmp_path / "t.html", title="t", note="n", table=columns, rows=[{c.key: 1.0 for c in columns}])
        return next(attrs for tag, attrs in Page((tmp_path / "t.html").read_text()).elements if tag == "table")

    assert table(20) == {"class": "turned", "style": "--columns: 20"} and table(7) == {}
    (style,) = Page((tmp_path / "t.html").read_text()).styles
    assert re.findall(r"@media ([^{]*prefers-color-scheme[^{]*) {", style) == [
        "screen and (prefers-color-scheme: dark)"
    ]
    assert ".turned" in style.partition("@media print")[2]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_a_browser_draws_every_chart_without_complaint(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    full_page(path)
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--v=0",
        "--virtual-time-budget=10000",
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert done.stdout.count("<svg ") == 2 * 4

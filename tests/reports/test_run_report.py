"""A run's report: verdict first, then the answers it rests on, what the run was, and its curves."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

import httpx
import pytest
from tiny_models import tiny_model

from alignkit.api import write_report
from alignkit.cli.main import main
from alignkit.judging.judged_answers import read_answers
from alignkit.reports.live import ReportServer

CSP = "content-security-policy"
EVIL = "<script>alert('from a row')</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, judged twice."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ALIGNKIT_LEDGER", str(folder / "ledger.sqlite"))
        tiny_model(Path("tiny"))
        rows = [{"id": f"r{n}", "prompt": f"Say {n} {EVIL}", "completion": f"I say {n}."} for n in range(40)]
        Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        Path("length.py").write_text("def length(completion, row):\n    return len(completion)\n")
        train = ["train", "sft", "--model", "tiny", "--data", "rows.jsonl", "--max-steps", "2", "--batch-size", "4"]
        assert main([*train, "--learning-rate", "0.1", "--out", "runs/sft"]) == 0
        judge = ["judge", "runs/sft", "--judge", "length.py:length", "--data", "rows.jsonl", "--max-new-tokens", "6"]
        assert main(judge) == 0
        assert main([*judge, "--num-prompts", "20", "--temperature", "1"]) == 0
    return folder / "runs/sft"


def test_a_judged_run_shows_its_newest_verdict_and_the_answers_first(run: Path) -> None:
    page = (run / "report.html").read_text()
    places = [page.index(text) for text in ('id="verdicts"', 'id="examples"', "<h2>This run", 'id="curves"')]
    assert places == sorted(places)
    assert page.count('<article class="verdict') == 2
    answers = read_answers(run / "verdicts/002.json")
    assert len(answers) == 20 == page.count("<details data-outcome") + page.count("<details open data-outcome")
    for outcome, name in ((1.0, "win"), (0.5, "tie"), (0.0, "loss")):
        num = sum(answer.outcome == outcome for answer in answers)
        assert len(re.findall(f'data-outcome="{name}"', page)) == num
        assert (f'value="{name}"' in page) == (num > 0)


def test_it_says_what_the_run_was_and_runs_no_text_of_a_row(run: Path) -> None:
    page = (run / "report.html").read_text()
    text = re.sub(r"<[^>]*>", "|", page)
    for fact in ("rows.jsonl", "2", "tokens per second in training", "MiB at the peak, planned", "alignkit chat "):
        assert fact in text
    assert EVIL not in page and "&lt;script&gt;alert(&#39;from a row&#39;)" in page
    assert len(page) < 1.5 * 2**20


def test_the_report_is_written_again_by_name(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent.parent)
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert main(["report", "sft"]) == 0
    assert capsys.readouterr().out.strip() == "runs/sft/report.html"
    assert (run / "report.html").read_text() == before
    assert main(["report", "runs"]) == 2
    assert "no run" in capsys.readouterr().err


def test_damaged_answers_are_skipped_with_a_warning(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = run / "verdicts/001.answers.jsonl"
    text = file.read_text()
    file.write_text("{}\n" + text)
    assert len(read_answers(run / "verdicts/001.json")) == 40
    assert "001.answers.jsonl, line 1: no judged answer" in caplog.text
    file.write_text(text)


def test_a_served_report_is_written_again_as_the_run_goes_on_and_nobody_else_sees_it(run: Path) -> None:
    server = ReportServer(run, write_report)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        page = httpx.get(server.address)
        assert page.status_code == 200 and 'src="page"' in page.text and "default-src 'none'" in page.headers[CSP]
        assert "<h2>This run" in httpx.get(server.address + "page").text
        before = httpx.get(server.address + "version").text
        assert httpx.get(server.address + "version").text == before  # nothing new
        os.utime(run / "metrics.jsonl")
        server.next_s = 0.0
        assert httpx.get(server.address + "version").text != before
        assert (run / "report.html").stat().st_mtime_ns >= (run / "metrics.jsonl").stat().st_mtime_ns
        assert not server.is_open
        for host in ("evil.example", f"evil.example:{server.port}"):
            assert httpx.get(server.address, headers={"Host": host}).status_code == 403
        assert httpx.get(f"http://127.0.0.1:{server.port}/guess/page").status_code == 403
    finally:
        server.stop()
        thread.join(10)
    assert not thread.is_alive()

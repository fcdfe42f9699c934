"""The page of a made tournament: what is on it, how large it is, and that a browser finds and filters."""

from __future__ import annotations

import json
import re
from pathlib import Path

from alignkit.tournaments.page import write_live_page, write_page
from alignkit.tournaments.results import Beside
from alignkit.tournaments.table import make_table
from tests.helpers.tournaments import made_results


def test_the_page_holds_the_table_the_curves_of_every_seed_and_the_answers(tmp_path: Path) -> None:
    results = made_results(num_seeds=2, num_prompts=20)
    for seed in results.seeds:
        run = tmp_path / results.runs["dpo", seed]
        run.mkdir(parents=True)
        lines = [
            {"step": n, "name": name, "value": 1 / n + seed} for n in range(1, 40) for name in ("loss", "kl", "reward")
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    table = make_table(results)
    page = write_page(tmp_path, results, table, commands=[("everything", "alignkit tournament")]).read_text(
        encoding="utf-8"
    )

    assert table.headline in page and "alignkit tournament" in page
    assert "<b>two</b>" not in page and "&lt;b&gt;two&lt;/b&gt;" in page
    for title in ("Training loss", "KL to the reference, samples", "Reward by KL to the reference", "point per run"):
        assert title in page, title
    assert "seed 1" in page and "mean" in page and "Validation loss" not in page
    assert not re.search(r"(src|href)=\"https?:", page)
    assert page.count("data-outcome=") == 20 and "against instruct" in page
    assert len(page.encode()) < 1 << 20


def test_an_empty_answer_is_shown_as_one(tmp_path: Path) -> None:
    results = made_results(num_seeds=1, num_prompts=3)
    results.text_ESP[1, 0, 0], results.text_ESP[1, 0, 1] = "", " \n\n"
    page = write_page(tmp_path, results, make_table(results)).read_text(encoding="utf-8")
    assert page.count("<em>(empty)</em>") == 2 and len(re.findall(r"<h4>sft, seed \d", page)) == 3


def test_a_tournament_without_a_finished_run_has_a_page(tmp_path: Path) -> None:
    results = made_results(num_seeds=1, num_prompts=20)
    page = write_page(tmp_path, results, make_table(results)).read_text(encoding="utf-8")
    assert "With one seed this is about these runs" in page


def test_the_page_shows_worst_answers_the_printed_table_and_a_run_under_way(tmp_path: Path) -> None:
    results = made_results(num_prompts=20, beside=Beside("the paper's Table 1", {"win_rate": {"dpo": "59.3"}}, ("n",)))
    loops = results.health["repetition"].x_ESP
    loops[3, 1, 7] = 88.0
    results.text_ESP[3, 1, 7] = "start" + " again" * 60
    page = write_page(tmp_path, results, make_table(results)).read_text(encoding="utf-8")
    assert "88.0" in page and "again again</td>" in page and "...in" in page and 'http-equiv="refresh"' not in page
    assert "59.3" in page and "win rate % vs instruct, here" in page

    write_live_page(tmp_path, {"sft/1": "done", "dpo/1": "running", "grpo/1": "failed: <b>no</b>"})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 of 3 pieces done" in page and 'http-equiv="refresh"' in page and "&lt;b&gt;no" in page

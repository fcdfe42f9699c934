"""U+2028, U+2029 and U+0085 are no line ends in JSON lines, wherever those are read."""

from __future__ import annotations

import json
from pathlib import Path

from alignkit.api.runs import Run
from alignkit.charts.curves import read_curves
from alignkit.judging.answer_file import AnswerFile
from alignkit.judging.judgements import read_judgements
from alignkit.judging.probes import read_probe_rows
from alignkit.tracking import append_lines, split_lines

ODD = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven"


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    append_lines(tmp_path / "a.jsonl", [{"text": ODD}, {"text": ""}])
    text = (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["text"] for line in split_lines(text)] == [ODD, ""]
    assert split_lines("") == [] and split_lines("a\n\nb") == ["a", "", "b"] and split_lines("a\n{") == ["a", "{"]


def test_an_unfinished_file_of_answers_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    prompts = [(f"a{ODD}", ({"role": "user", "content": ODD},))]
    first = AnswerFile(path, {"seed": 0}, prompts, resume=False)
    first.begin()
    answer = {
        "id": f"a{ODD}",
        "prompt": [{"role": "user", "content": ODD}],
        "completion": ODD,
        "finish": "stop",
        "num_prompt_tokens": 3,
        "num_tokens": 2,
    }
    first.add([answer])
    again = AnswerFile(path, {"seed": 0}, prompts, resume=True)
    assert again.known == {f"a{ODD}": answer}
    again.finish()
    assert [json.loads(line)["completion"] for line in split_lines(path.read_text(encoding="utf-8"))] == [ODD]


def test_samples_metrics_probes_and_judgements_are_read_whole(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    append_lines(tmp_path / "samples.jsonl", [{"completion": ODD}, {"completion": "b"}])
    assert [line["completion"] for line in Run(tmp_path).samples] == [ODD, "b"]
    values = [{"step": step, "name": ODD, "value": float(step), "tokens": 0} for step in (1, 2)]
    append_lines(tmp_path / "metrics.jsonl", values)
    assert Run(tmp_path).metrics["name"].to_list() == [ODD, ODD]
    assert [len(curve.series) for curve in read_curves(tmp_path / "metrics.jsonl", group="x", metrics=[ODD])] == [1]
    append_lines(tmp_path / "probe.jsonl", [{"prompt": ODD, "chosen": ODD, "rejected": "no"}])
    assert [row.chosen for row in read_probe_rows(tmp_path / "probe.jsonl")] == [[ODD]]
    lines = [{"row": n, "preference": 1.5, "note": ODD} for n in range(3)]
    append_lines(tmp_path / "judged.jsonl", lines)
    assert [row["note"] for row in read_judgements(tmp_path / "judged.jsonl").fields] == [ODD] * 3

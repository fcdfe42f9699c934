"""Python takes and gives objects: runs, rows in memory, functions; and a notebook shows them, escaped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas
import polars
import pytest
from tiny_models import tiny_model
from verdicts import rated, verdict_on

import alignkit
from alignkit.api.python import in_python
from alignkit.api.rows import name_of_rows
from alignkit.api.tables import Table
from alignkit.errors import InputError, UsageError

ROWS = [{"id": f"r{n}", "prompt": f"Say <b>{n}</b>.", "chosen": f"it is {n}"} for n in range(16)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


NOTEBOOK = Path(__file__).parents[2] / "docs" / "guide" / "python.ipynb"


def test_the_guides_notebook_runs_and_a_notebook_shows_what_it_gives_escaped(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path / "cache"))
    named: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(
                "".join(cell["source"])
                .replace('"SmolLM2-135M-Instruct"', repr(str(model)))
                .replace("max_steps=20", "max_steps=2")
                .replace("max_new_tokens=16", "max_new_tokens=4"),
                named,
            )
    run, verdict, answers = named["run"], named["verdict"], named["answers"]
    assert run.path == Path("runs/sft-1")
    assert verdict.win_rate.num_prompts + verdict.win_rate.num_missing == 16
    assert [one.created for one in run.verdicts] == [verdict.created]
    assert len(repr(verdict)) < 400 and str(verdict.run) in repr(verdict)
    assert named["figures"]["num_prompts"] == 8 and named["model"].folder == run.model
    assert alignkit.chat(named["model"], "Name a river.") == answers[1]["completion"]
    assert verdict.answer in run._repr_html_()
    assert "Training loss" in run.plot("loss")._repr_svg_()
    with pytest.raises(UsageError, match="no metric 'los' in this run; did you mean 'loss'"):
        run.plot("los")
    for shown in (run, verdict, answers, named["figures"]):
        assert "<table>" in shown._repr_html_()


def test_what_a_notebook_shows_is_escaped() -> None:
    verdict = verdict_on(rated(60.0, 55.0, 65.0), vs="<script>x</script>", caveats=("<img src=x>",))
    table = Table([{"<i>name": "<script>x</script>", "prompt": [{"role": "user", "content": "<u>"}]}])
    for shown in (verdict, table):
        assert not {"<script", "<img", "<i>", "<u>"} & set(re.findall(r"<\w+>?", shown._repr_html_()))
    assert "&lt;script&gt;" in verdict._repr_html_() and "user: &lt;u&gt;" in table._repr_html_()
    picture = verdict.plot()
    assert [list(line.get_xdata()) for line in picture.axes[0].lines] == [[50.0, 50.0], [55.0, 65.0], [60.0]]
    assert "<script" not in picture._repr_svg_() and "&lt;script&gt;x" in picture._repr_svg_()


def test_tab_completion_lists_what_there_is_and_nothing_else() -> None:
    names = dir(alignkit)
    assert {"train", "judge", "evaluate", "generate", "chat", "load", "Run", "Verdict"} <= set(names)
    assert all(getattr(alignkit, name) is not None for name in names)


def test_errors_name_the_argument_and_the_nearest(model: Path) -> None:
    with pytest.raises(UsageError, match=r"^unknown option 'learning_rte'; did you mean 'learning_rate'\?$"):
        alignkit.train("sft", model=model, data=ROWS, learning_rte=1.0)
    with pytest.raises(UsageError, match=r"^max_length: \"long\" was given, a whole number, at least 8 is allowed$"):
        alignkit.train("sft", model=model, data=ROWS, max_length="long")
    with pytest.raises(UsageError, match=r"^data, row 2: str was given; a row is a dict$"):
        alignkit.train("sft", model=model, data=[ROWS[0], "text"])
    with pytest.raises(UsageError, match=r"^run: list was given; a Run, a folder or a name is taken$"):
        alignkit.judge([ROWS])
    with pytest.raises(InputError, match=r"^data: no rows"):
        alignkit.evaluate(model, data=[])
    assert in_python("lower --max-length; go on with: alignkit train sft --resume") == (
        "lower max_length; go on with: alignkit train sft --resume"
    )


def test_rows_of_every_kind_are_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("ALIGNKIT_CACHE", str(tmp_path))
    from alignkit.data.reading.read import read_rows

    rows: list[dict[str, Any]] = [
        {"id": "a", "prompt": [{"role": "user", "content": "é\u2028"}], "chosen": "x", "note": 1.5},
        {"id": "b", "prompt": [{"role": "user", "content": "?"}], "chosen": "y", "note": None},
    ]
    given = [
        rows,
        iter(rows),
        polars.DataFrame(rows),
        polars.LazyFrame(rows),
        pandas.DataFrame(rows),
        datasets.Dataset.from_list(rows),
        datasets.Dataset.from_list(rows).to_iterable_dataset(),
    ]
    for one in given:
        file = Path(name_of_rows(one))
        assert file.is_relative_to(tmp_path) and file.stat().st_mode & 0o077 == 0
        read = read_rows(str(file))
        assert [(row.id, row.prompt, row.chosen) for row in read] == [
            ("a", ({"role": "user", "content": "é\u2028"},), ({"role": "assistant", "content": "x"},)),
            ("b", ({"role": "user", "content": "?"},), ({"role": "assistant", "content": "y"},)),
        ]
        assert [row.fields.get("note") for row in read] == [1.5, None], type(one)
    assert name_of_rows(rows) == name_of_rows(tuple(rows))
    with pytest.raises(UsageError, match=r"holds the splits train, test; give one: data=d\['train'\]"):
        name_of_rows(datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name in ("train", "test")}))
    with pytest.raises(InputError, match=r"data, row 1: .*bytes.*rows hold text"):
        name_of_rows([{"prompt": b"x"}])

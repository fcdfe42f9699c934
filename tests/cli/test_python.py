"""Python takes and gives objects: runs, rows in memory, functions; and a notebook shows them, escaped."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pandas
import polars
import pytest
from tiny_models import tiny_model
from verdicts import rated, verdict_on

import alignkit
from alignkit.api.rows import name_of_rows
from alignkit.api.showing import progress_of
from alignkit.api.tables import Table
from alignkit.api.wording import in_python
from alignkit.errors import InputError, UsageError
from alignkit.progress import Progress

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
    assert in_python("lower --max-length; go on with: alignkit train sft --resume; --quantize 4bit, --no-compile") == (
        "lower max_length; go on with: alignkit train sft --resume; quantize='4bit', compile=False"
    )
    assert in_python(
        "--set judge.votes.days=3 or --allow-changed my.py --allow-changed seed, --max-steps 30 or RUN"
    ) == ("set=['judge.votes.days=3'] or allow_changed=['my.py', 'seed'], max_steps=30 or RUN")


class Kernel:
    """IPython in a notebook, as far as a rewritten line needs it."""

    kernel = object()

    def __init__(self) -> None:
        self.shown: list[str] = []

    def get_ipython(self) -> Kernel:
        return self

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Kernel:
        assert raw and display_id and not self.shown  # one display a call
        self.update(content, raw=raw)
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        self.shown.append(content["text/html"])


def test_a_notebook_shows_one_line_that_is_rewritten_and_a_script_plain_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, kernel = [0.0], Kernel()
    monkeypatch.setattr("alignkit.api.showing.time.monotonic", lambda: now[0])

    def work(progress: Progress) -> None:
        progress.note("64 rows <b>; --split 0.3 gives 19")
        progress.start("sft step", 40, 10)
        for step in range(15):
            now[0] += 1.0
            progress.advance(1, loss=2.0 - 0.1 * step, accuracy=0.5)
        progress.phase("validating", 3, 19)
        progress.stop()

    work(progress_of(None))
    said = capsys.readouterr().err.splitlines()
    assert said == ["64 rows <b>; split=0.3 gives 19", "sft step 20/40  about 20 s left  loss 1.1  accuracy 0.5"]

    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", kernel)
    work(progress_of(None))
    assert len(kernel.shown) == 17 and capsys.readouterr().err == ""
    note = '<pre style="white-space: pre-wrap">64 rows &lt;b&gt;; split=0.3 gives 19'
    assert kernel.shown[-2] == f"{note}\nsft step 25/40  about 15 s left  loss 0.6  accuracy 0.5</pre>"
    assert kernel.shown[-1] == f"{note}</pre>"  # the notes stay
    work(progress_of(False))
    assert len(kernel.shown) == 17


def test_a_run_goes_on_by_itself(model: Path, tmp_path: Path) -> None:
    run = alignkit.train("sft", model=model, data=ROWS, split=0.5, max_steps=1, max_new_tokens=4, out=tmp_path / "run")
    more = alignkit.train(resume=run, more_steps=1)
    assert more.path == run.path and more.info["finished"]["steps"] == 2
    with pytest.raises(UsageError, match=r"^method: none was given; name one"):
        alignkit.train(model=model)


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


def test_each_call_says_anew_what_is_odd_in_rows(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": f"Say {n}", "reference": "x", "split": "test"} for n in range(3)]
    for calls in (1, 2):
        alignkit.evaluate(model, data=rows, max_new_tokens=2)
        assert sum("rows have the split 'test'" in record.message for record in caplog.records) == calls

"""Reward files: modules in a process of their own, whose functions may do to it what they like."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from alignkit.errors import InputError, RunStopped, UsageError
from alignkit.scoring.functions import process as function_process
from alignkit.scoring.functions.judge import FunctionJudge
from alignkit.scoring.functions.sources import place_of, sources_sha256
from alignkit.scoring.judge import Item, Missing, Scored


def item(text: str = "some text", **row: object) -> Item:
    return Item([{"role": "user", "content": "Hi"}], text, {"id": "r1", **row})


def judge(folder: Path, code: str, *, name: str = "mine.py", function: str = "f") -> FunctionJudge:
    (folder / name).write_text(code)
    return FunctionJudge(folder / name, function)


def returning(folder: Path, expression: str, *, imports: str = "") -> FunctionJudge:
    return judge(folder, f"{imports}\ndef f(completion, row):\n    return {expression}\n")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit(0)", r"row r1: the reward function would end the process by exit\(0\)"),
        ("raise SystemExit", r"would end the process by exit\(\)"),
        ("raise GeneratorExit", "would end the process by GeneratorExit"),
        ("raise KeyboardInterrupt", "would end the process by KeyboardInterrupt"),
        ("os._exit(0)", "row r1: the process that runs the reward function ended with exit code 0"),
        ("ctypes.string_at(0)", "was ended by SIGSEGV, a crash in native code"),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL, as the system ends what takes too much memory"),
        ("os.closerange(3, 1 << 16)", "closed the pipe that is alignkit's|ended with exit code 1"),
        (
            "for n in range(3, 4096):\n        with suppress(OSError): os.write(n, b'x' * 4096)",
            "wrote into the pipe that is alignkit's",
        ),
        ("return 10**400", "returned 1000.*, too large a number"),
        ("return Decimal('1e400')", "too large a number"),
    ],
)
def test_a_function_that_ends_its_process_stops_and_says_how(tmp_path: Path, body: str, said: str) -> None:
    code = (
        "import ctypes, os, sys\nfrom contextlib import suppress\nfrom decimal import Decimal\n"
        f"def f(completion, row):\n    {body}\n    return 1.0\n"
    )
    with pytest.raises(RunStopped, match=said) as caught:
        judge(tmp_path, code).score([item()])
    assert "mine.py:f, row r1" in str(caught.value) and caught.value.corrects == "mine.py"


def test_after_its_end_the_function_can_be_asked_again(tmp_path: Path) -> None:
    one = judge(tmp_path, "import os\ndef f(completion, row):\n    return 1.0 if completion else os._exit(7)\n")
    with pytest.raises(RunStopped, match="ended with exit code 7"):
        one.score([item(""), item("x")])
    assert one.score([item("x")]) == [Scored(1.0)]
    (tmp_path / "mine.py").write_text("def f(completion, row):\n    return 2.0\n")
    with pytest.raises(RunStopped):
        one.score([item("")])
    with pytest.raises(InputError, match="changed since it was imported"):
        one.score([item("x")])


@pytest.mark.parametrize(
    "body",
    [
        "sys.stdout.close(); sys.stderr.close(); sys.stdin.close()",
        "os.closerange(0, 3)",
        "print('x' * 100_000); os.write(1, b'y'); os.write(2, b'z')",
        "os.chdir('/'); sys.path.clear(); sys.setrecursionlimit(60)",
        "row['tags'].append('seen'); row.clear()",
    ],
)
def test_what_a_function_does_to_its_process_is_not_alignkits(tmp_path: Path, body: str) -> None:
    one = judge(
        tmp_path, f"import os, sys\ndef f(completion, row):\n    n = len(row['tags'])\n    {body}\n    return n\n"
    )
    row = {"tags": ["a"]}
    assert one.score([item(**row)] * 3)[0] == Scored(1.0)
    assert row == {"tags": ["a"]}


def test_items_of_one_row_do_not_see_what_a_call_did_to_it(tmp_path: Path) -> None:
    one = judge(tmp_path, "def f(completion, row):\n    row['tags'].append('x')\n    return len(row['tags'])\n")
    row = {"tags": ["a"]}
    assert one.score([item(**row)] * 3) == [Scored(2.0)] * 3


def test_prints_go_to_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one = judge(tmp_path, "print('imported')\ndef f(completion, row):\n    print('called')\n    return 1\n")
    assert one.score([item()]) == [Scored(1.0)]
    out, err = capfd.readouterr()
    assert out == "" and "imported\ncalled\n" in err


def test_a_function_may_not_wait_for_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="raised EOFError"):
        returning(tmp_path, "float(input())").score([item()])


def test_a_row_keeps_the_types_it_has(tmp_path: Path) -> None:
    code = "def f(completion, row):\n    return row['kinds'] == [type(x).__name__ for x in row['values']]\n"
    values = [
        1,
        1.5,
        float("nan"),
        None,
        True,
        "é\ud800",
        b"\0",
        date(2026, 1, 2),
        Decimal("1.10"),
        10**30,
        [1],
        {"a": 2},
    ]
    row = {"values": values, "kinds": [type(x).__name__ for x in values]}
    assert judge(tmp_path, code).score([item("half \ud800 a character", **row)]) == [Scored(1.0)]
    with pytest.raises(InputError, match="row r1: the row cannot be handed"):
        judge(tmp_path, code).score([item(values=threading.Lock())])


@pytest.mark.parametrize(
    ("expression", "number"),
    [
        ("True", 1.0),
        ("3", 3.0),
        ("Fraction(1, 2)", 0.5),
        ("Decimal('0.25')", 0.25),
        ("np.float32(0.5)", 0.5),
        ("np.int64(2)", 2.0),
        ("np.bool_(True)", 1.0),
        ("np.asarray(1.5)", 1.5),
        ("np.asarray(False)", 0.0),
        ("np.longdouble(2)", 2.0),
    ],
)
def test_every_real_number_is_one_and_true_is_1(tmp_path: Path, expression: str, number: float) -> None:
    imports = "import numpy as np\nfrom fractions import Fraction\nfrom decimal import Decimal"
    assert returning(tmp_path, expression, imports=imports).score([item()]) == [Scored(number)]


def test_a_tensor_without_a_dimension_is_a_number(tmp_path: Path) -> None:
    code = (
        "import torch\nVALUES = {'a': torch.tensor(1.5, requires_grad=True), 'b': torch.tensor(True), "
        "'c': torch.tensor(2, dtype=torch.bfloat16), 'd': torch.tensor([1.0])}\n"
        "def f(completion, row):\n    return VALUES[completion]\n"
    )
    one = judge(tmp_path, code)
    assert one.score([item("a"), item("b"), item("c")]) == [Scored(1.5), Scored(1.0), Scored(2.0)]
    with pytest.raises(InputError, match=r"returned tensor\(\[1.\]\), a Tensor; return a finite number or None"):
        one.score([item("d")])


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("[1.0]", r"returned \[1.0\], a list"),
        ("{'score': 1}", "a dict"),
        ("'0.5'", "returned '0.5', a str"),
        ("1j", "a complex"),
        ("np.asarray([1.0])", "an? ndarray"),
        ("np.complex64(1)", "a complex64"),
        ("np.str_('1')", "a str_"),
        ("float('inf')", "returned inf;"),
        ("np.float32('nan')", "returned .*nan"),
        ("Decimal('sNaN')", "sNaN"),
        ("later()", "returned a coroutine"),
        ("Bad()", "returned an object of Bad, a Bad"),
    ],
)
def test_what_is_no_finite_number_is_refused_with_the_row(tmp_path: Path, expression: str, said: str) -> None:
    imports = (
        "import numpy as np\nfrom decimal import Decimal\nasync def later(): return 1.0\n"
        "class Bad:\n    def __repr__(self): raise ValueError\n"
    )
    with pytest.raises(InputError, match=said) as caught:
        returning(tmp_path, expression, imports=imports).score([item()])
    assert "mine.py:f, row r1" in str(caught.value)


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("def f(completions, **kwargs): pass", r"f takes \(completions, \*\*kwargs\); a reward takes \(completion: "),
        ("def f(data_source, solution_str, ground_truth, extra_info=None): pass", "takes .data_source, solution_str"),
        ("def f(completion): pass", r"takes \(completion\)"),
        ("def f(completion, row, *, weights): pass", "takes .completion, row, ., weights"),
        ("async def f(completion, row): pass", "f is an async function; a reward is an ordinary one"),
        ("class F:\n    async def __call__(self, completion, row): pass\nf = F()", "f is an async function"),
        ("f = 3", "has no function 'f'"),
    ],
)
def test_a_function_of_another_kind_is_refused_before_anything_is_scored(
    tmp_path: Path, definition: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        judge(tmp_path, definition)


@pytest.mark.parametrize(
    "definition",
    [
        "def f(completion, row): return 1",
        "def f(*texts): return 1",
        "def f(a, b, c=3, **d): return 1",
        "class F:\n    def __call__(self, completion, row): return 1\nf = F()",
        "import functools\ndef g(x, completion, row): return 1\nf = functools.partial(g, 0)",
        "f = max",
    ],
)
def test_whatever_takes_a_completion_and_a_row_is_taken(tmp_path: Path, definition: str) -> None:
    judge(tmp_path, definition)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys\nsys.exit(3)", r"(?s)line 2.*ends its process by exit\(3\) when it is imported"),
        ("import os\nos._exit(3)", "the process that imports the reward file ended with exit code 3"),
        ("import ctypes\nctypes.string_at(0)", "was ended by SIGSEGV"),
        ("1 / 0", r"(?s)mine.py.*line 1.*ZeroDivisionError.*cannot be imported; correct it"),
        ("x = '\0'", "cannot be imported"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_with_its_own_traceback(tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        judge(tmp_path, code)
    assert "worker.py" not in str(caught.value)


def test_an_import_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_process, "START_S", 0.5)
    with pytest.raises(InputError, match=r"took longer than 0\.5 s to import it"):
        judge(tmp_path, "import time\ntime.sleep(60)\n")


MODULE = """
from __future__ import annotations
import pickle, sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

@dataclass
class Rule:
    words: int = 5

def check(text):
    return len(text)

def f(completion, row):
    with ProcessPoolExecutor(1) as pool:
        in_a_pool = pool.submit(check, completion).result(timeout=30)
    import neighbour
    assert pickle.loads(pickle.dumps(Rule())) == Rule() and sys.modules["mine"].f is f and __name__ == "mine"
    return in_a_pool + neighbour.VALUE
"""


def test_a_reward_file_is_a_module_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("VALUE = 100\n")
    assert judge(tmp_path, MODULE).score([item("four")]) == [Scored(104.0)]


def test_a_file_of_a_package_may_import_by_dots(tmp_path: Path) -> None:
    package = tmp_path / "pkg" / "sub"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package.parent / "base.py").write_text("VALUE = 3\n")
    one = judge(package, "from ..base import VALUE\ndef f(completion, row):\n    return VALUE\n")
    assert one.score([item()]) == [Scored(3.0)]
    before = one.sources_sha256
    (package.parent / "base.py").write_text("VALUE = 4\n")
    assert sources_sha256(place_of(package / "mine.py")) != before


@pytest.mark.parametrize("name", ["random.py", "torch.py"])
def test_a_file_with_the_name_of_another_module_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name[:-3]!r} is also the name of .* module, .*; rename the file"):
        judge(tmp_path, "import random\ndef f(completion, row): return random.random()\n", name=name)


def test_files_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    judges = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "neighbour.py").write_text(f"VALUE = {len(judges)}\n")
        judges.append(judge(tmp_path / name, "import neighbour\ndef f(completion, row): return neighbour.VALUE\n"))
    assert [one.score([item()])[0] for one in judges] == [Scored(0.0), Scored(1.0)]


def test_the_functions_of_a_file_share_one_process_that_ends_with_the_last(tmp_path: Path) -> None:
    code = "import os\ndef f(c, r): return os.getpid()\ndef g(c, r): return os.getpid()\n"
    one, other = judge(tmp_path, code), FunctionJudge(tmp_path / "mine.py", "g")
    (pid,) = {int(x.value) for x in (*one.score([item()]), *other.score([item()])) if isinstance(x, Scored)}
    assert pid != os.getpid()
    one.close()
    assert other.score([item()]) == [Scored(float(pid))]
    other.close()
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # neither alive nor a zombie


def test_an_edit_is_seen_however_soon_it_comes(tmp_path: Path) -> None:
    code = "from neighbour import VALUE\ndef f(completion, row):\n    return VALUE * 1\n"
    for n in range(1, 4):
        (tmp_path / "neighbour.py").write_text(f"VALUE = {n}\n")
        assert judge(tmp_path, code.replace("* 1", f"* {n}")).score([item()]) == [Scored(float(n * n))]


HANGS = """
import os, signal, time
def f(completion, row):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    open(row["pid"], "w").write(str(os.getpid()))
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


def appeared(file: Path) -> int:
    until = time.monotonic() + 20
    while not (file.exists() and file.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    return int(file.read_text())


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Late(BaseException):
    """As a deadline is."""


def test_a_function_that_swallows_everything_is_ended_by_a_deadline_and_says_where_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def late(number: int, frame: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    one = judge(tmp_path, HANGS)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        began = time.monotonic()
        with caplog.at_level(logging.ERROR), pytest.raises(Late):
            one.score([item(pid=str(tmp_path / "pid"))])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 5
    assert not is_running(appeared(tmp_path / "pid"))
    assert "mine.py" in caplog.text and "in f" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_function_outlives_alignkit(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "mine.py").write_text(HANGS)
    code = (
        "import sys\nfrom pathlib import Path\nfrom alignkit.scoring.functions.judge import FunctionJudge\n"
        "from alignkit.scoring.judge import Item\n"
        "FunctionJudge(Path('mine.py'), 'f').score([Item([], 'x', {'pid': 'pid'})])\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True) as process:
        pid = appeared(tmp_path / "pid")
        os.killpg(process.pid, number)
        process.communicate(timeout=20)
    until = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(pid)


def test_scores_are_kept_in_parts(tmp_path: Path) -> None:
    one = returning(tmp_path, "None if completion == '' else float(completion)")
    items = [item(str(n) if n % 7 else "") for n in range(150)]
    parts = list(one.stream(items))
    assert [len(part) for part in parts] == [64, 64, 22]
    assert {n: answer for part in parts for n, answer in part.items()} == {
        n: Scored(float(n)) if n % 7 else Missing("does not apply", applies=False) for n in range(150)
    }


@pytest.mark.parametrize(
    "statement",
    [
        "import lib.part",
        "from lib import part",
        "from lib.part import VALUE",
        "from lib import *",
        "import importlib; importlib.import_module('lib.part')",
        "__import__('lib.part')",
        "def g():\n    from lib import part",
    ],
)
@pytest.mark.parametrize("is_namespace", [True, False])
def test_what_a_file_imports_is_a_part_of_it(tmp_path: Path, statement: str, is_namespace: bool) -> None:
    (tmp_path / "lib").mkdir()
    if not is_namespace:
        (tmp_path / "lib" / "__init__.py").touch()
    (tmp_path / "lib" / "part.py").write_text("from . import deeper\nVALUE = 1\n")
    (tmp_path / "lib" / "deeper.py").write_text("VALUE = 1\n")
    (tmp_path / "mine.py").write_text(f"{statement}\ndef f(completion, row): return 1\n")

    def fingerprint() -> str:
        return sources_sha256(place_of(tmp_path / "mine.py"))

    before = fingerprint()
    (tmp_path / "lib" / "other.txt").write_text("not imported")
    assert fingerprint() == before
    for name in ("part", "deeper"):
        changed = tmp_path / "lib" / f"{name}.py"
        changed.write_text(f"{changed.read_text()}OTHER = 2\n")
        assert fingerprint() != before
        before = fingerprint()

"""Runs the functions of one reward file in a process of its own: whatever they do to it, the run is not hurt.

Started by alignkit.scoring.functions.process as a script, so that it imports nothing but what the file imports:

    python -P worker.py REQUESTS ANSWERS STACKS PARENT

The first three are file descriptors. A request is a pickle that alignkit wrote, an answer is JSON, each behind its
length; nothing that comes back is ever unpickled. Requests and answers have pipes of their own: what the functions
print goes to standard error, and what they do to their standard streams touches neither.

The first request says what to import, the others are ("check", function) and ("score", function, completion, row).
The end of the requests, with alignkit's process, is the end of this one.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import math
import numbers
import os
import pickle
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import CodeType, ModuleType
from typing import Any

WANTED = "(completion: str, row: dict) -> float | None"
_MAX_SHOWN = 200  # characters of a value that is no number
_MAX_TRACE = 20_000
_PR_SET_PDEATHSIG = 1
_LENGTH = struct.Struct(">Q")


def main() -> None:
    """Serve until the requests end."""
    requests, answers, stacks, parent = (int(text) for text in sys.argv[1:5])
    _end_with(parent)
    _stand_apart(requests, answers)
    faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    own = os.getpid()
    module: ModuleType | None = None
    while (request := _read(requests)) is not None:
        if module is None:
            module, answer = _import(**request)
        elif request[0] == "check":
            answer = _check(module, request[1])
        else:
            answer = answer_of(getattr(module, request[1]), *request[2:])
        if os.getpid() != own:  # a fork that the function made came back from it
            os._exit(1)
        _write(answers, json.dumps(answer).encode())
        if module is None:
            return


def _end_with(parent: int) -> None:
    """Let the kernel end this process with the thread that started it (0: with no thread)."""
    if parent == 0 or sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


def _stand_apart(*pipes: int) -> None:
    """Leave Ctrl-C and SIGTERM to alignkit, which ends this process; keep the pipes from what the functions start."""

    def leave(number: int, frame: object) -> None:
        pass

    def become_ordinary() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for pipe in pipes:
            with contextlib.suppress(OSError):
                os.close(pipe)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    for pipe in pipes:
        os.set_inheritable(pipe, False)
    os.register_at_fork(after_in_child=become_ordinary)


class _Uncached(importlib.machinery.SourceFileLoader):
    """Compiles the source that is there now: cached bytecode of an edit within one second would be the old one's."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _import(
    *, file: str, name: str, is_in_package: bool, folders: list[str], more_path: list[str]
) -> tuple[ModuleType | None, dict[str, Any]]:
    """Import the file as the module `name`, with `folders` first on sys.path; returns it and the answer."""
    _read_sources_of(folders, [*sys.path, *more_path])
    sys.path[:0] = folders
    sys.path += [folder for folder in more_path if folder not in sys.path]
    if not is_in_package and (whose := _taken(name, file)) is not None:
        return None, {"taken": whose}
    try:
        if is_in_package:
            return importlib.import_module(name), {"ready": True}
        spec = importlib.util.spec_from_file_location(name, file, loader=_Uncached(name, file))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module, {"ready": True}
    except Exception as error:
        return None, {"raised": type(error).__name__, "trace": _trace(error)}
    except BaseException as error:
        return None, {"ended": _ended(error), "trace": _trace(error)}


def _read_sources_of(folders: list[str], others: list[str]) -> None:
    """Let modules below the file's own folders, but not of what is installed there, be imported uncached."""
    finder = importlib.machinery.FileFinder.path_hook(
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (_Uncached, importlib.machinery.SOURCE_SUFFIXES),
        (importlib.machinery.SourcelessFileLoader, importlib.machinery.BYTECODE_SUFFIXES),
    )

    def find(path: str) -> Any:
        above = [one for one in (*folders, *others) if path == one or path.startswith(f"{one.rstrip(os.sep)}{os.sep}")]
        if not above or max(above, key=len) not in folders:
            raise ImportError
        return finder(path)

    sys.path_hooks.insert(0, find)


def _taken(name: str, file: str) -> str | None:
    """Whose module `name` is already, or None: under that name the file would be what others import."""
    if name in sys.stdlib_module_names:
        return "Python's own"
    found = importlib.machinery.PathFinder.find_spec(name, [p for p in sys.path if "site-packages" in p])
    origin = None if found is None else found.origin
    return None if origin is None or os.path.realpath(origin) == os.path.realpath(file) else f"an installed ({origin})"


def _check(module: ModuleType, name: str) -> dict[str, Any]:
    """Say whether `name` is a function that takes a completion and a row."""
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        return {"unknown": known}
    return taken_kind(function)


def taken_kind(function: Callable[..., Any]) -> dict[str, Any]:
    """Say whether something callable takes a completion and a row, and answers at once."""
    called = (function, type(function).__call__)
    if any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in called):
        return {"asynchronous": True}
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of native code: nothing is known of it
        return {"ready": True}
    try:
        signature.bind("", {})
    except TypeError:
        return {"signature": str(signature)}
    return {"ready": True}


def answer_of(
    function: Callable[[str, Mapping[str, Any]], Any],
    completion: str,
    row: Mapping[str, Any],
    *,
    ends: tuple[type[BaseException], ...] = (BaseException,),
) -> dict[str, Any]:
    """Call the function; every exception that it raises is an answer, and of what is none those of `ends`."""
    try:
        value = function(completion, row)
        return {"missing": True} if value is None else _number(value)
    except Exception as error:
        return {"raised": type(error).__name__, "trace": _trace(error)}
    except ends as error:
        return {"ended": _ended(error), "trace": _trace(error)}


def _number(value: Any) -> dict[str, Any]:
    """The number that a value is, or the value as it is shown.

    Numbers are Python's real ones, Decimal and what has no dimension in numpy or torch; true is 1 and false 0,
    whosever they are.
    """
    x = value
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        x = value.item()
    if isinstance(x, numbers.Real | Decimal):
        try:
            number = float(x)
        except OverflowError:
            return {"too_large": _shown(value)}
        except ValueError:  # a signalling nan
            return {"returned": _shown(value)}
        if math.isfinite(number):
            return {"score": number}
        if isinstance(x, Decimal) and x.is_finite():
            return {"too_large": _shown(value)}
        return {"returned": _shown(value)}
    kind = type(value).__name__
    if inspect.iscoroutine(value):
        value.close()
        return {"returned": "a coroutine, as an async function does"}
    return {"returned": f"{_shown(value)}, {'an' if kind[0] in 'aeiou' else 'a'} {kind}"}


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # an int of thousands of digits has no text
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _ended(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"exit({_shown(error.code) if error.code is not None else ''})"
    return type(error).__name__


def _trace(error: BaseException) -> str:
    """The traceback of the user's own frames."""
    trace = error.__traceback__
    while trace is not None and (
        "importlib" in trace.tb_frame.f_code.co_filename or trace.tb_frame.f_globals.get("__name__") == __name__
    ):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    return text if len(text) <= _MAX_TRACE else f"{text[: _MAX_TRACE // 2]}\n...\n{text[-_MAX_TRACE // 2 :]}"


def _read(pipe: int) -> Any:
    """The next request, or None at the end."""
    head = _read_bytes(pipe, _LENGTH.size)
    if head is None:
        return None
    body = _read_bytes(pipe, _LENGTH.unpack(head)[0])
    return None if body is None else pickle.loads(body)


def _read_bytes(pipe: int, count: int) -> bytes | None:
    parts = []
    while count:
        part = os.read(pipe, min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _write(pipe: int, body: bytes) -> None:
    left = memoryview(_LENGTH.pack(len(body)) + body)
    while left:
        left = left[os.write(pipe, left) :]


if __name__ == "__main__":
    main()

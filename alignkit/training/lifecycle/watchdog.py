"""The process beside a training run that ends a phase which takes too long. Run as a script; needs nothing of alignkit.

    python -I -S watchdog.py PID STACKS_SIGNAL END_SIGNAL

A process of its own, because a phase may be stuck in native code that holds the interpreter: then no thread of the run
gets a turn. It reads JSON lines: {"in": SECONDS, "grace": SECONDS, "say": TEXT} sets the one deadline, {} lifts it.
Past it, PID gets STACKS_SIGNAL (it logs its stacks, saves and stops by itself); where no further line comes within the
grace, TEXT goes to standard error and PID gets END_SIGNAL. The end of its input, with the run, is its own end.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time


def main() -> None:
    pid, stacks_signal, end_signal = (int(text) for text in sys.argv[1:4])
    waiting: dict[str, object] = {}
    due: float | None = None
    was_told = False
    received = b""
    while True:
        left = None if due is None else max(0.0, due - time.monotonic())
        if select.select([0], [], [], left)[0]:
            part = os.read(0, 1 << 16)
            if not part:
                return
            received += part
            *lines, received = received.split(b"\n")
            if lines:
                waiting, was_told = json.loads(lines[-1]), False
                due = time.monotonic() + float(str(waiting["in"])) if waiting else None
        elif not was_told:
            os.kill(pid, stacks_signal)
            was_told, due = True, time.monotonic() + float(str(waiting["grace"]))
        else:
            print(waiting["say"], file=sys.stderr, flush=True)
            os.kill(pid, end_signal)
            return


if __name__ == "__main__":
    main()

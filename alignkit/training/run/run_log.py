"""log.txt of a run: what alignkit logs, what is said to whoever watches, and what ended the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from alignkit.display import LogFormatter
from alignkit.distributed.ranks import World
from alignkit.errors import AlignkitError
from alignkit.progress import Progress, Silent
from alignkit.storage import open_private


@contextmanager
def logged(folder: Path, world: World, progress: Progress) -> Iterator[Progress]:
    """Keep in log.txt what alignkit logs, what `progress` is told, and what ends the run; rank 0 speaks for all."""
    logger = logging.getLogger("alignkit")
    if not world.is_first:
        before = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield progress
        finally:
            logger.setLevel(before)
        return
    handler = _PrivateLog(folder / "log.txt", encoding="utf-8", delay=True)
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    said = _Said(progress, handler)
    try:
        yield said
    except AlignkitError as error:
        text = ("%s", (error.line,), None)
        handler.handle(logging.LogRecord(__name__, logging.ERROR, __file__, 0, *text))
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


class _PrivateLog(logging.FileHandler):
    """A log that is its owner's alone to read."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=open_private)  # type: ignore[return-value]


class _Said(Silent):
    """Passes progress on, and keeps the lines that are said in log.txt."""

    def __init__(self, progress: Progress, handler: logging.Handler) -> None:
        self._handler, self._progress = handler, progress
        self.start, self.advance = progress.start, progress.advance  # type: ignore[method-assign]
        self.phase, self.stop = progress.phase, progress.stop  # type: ignore[method-assign]

    def note(self, line: str) -> None:
        self._progress.note(line)
        self._handler.handle(logging.LogRecord(__name__, logging.INFO, __file__, 0, "%s", (line,), None))

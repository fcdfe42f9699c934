"""A GPU that is lost in the middle of a run: an error of one line, and the way on from what is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alignkit.errors import RunStopped
from alignkit.gpu import lost_gpu


@contextmanager
def lost_gpu_explained(saved: Callable[[], str]) -> Iterator[None]:
    """Turn an error after which the GPU computes nothing any more into a stopped run.

    Nothing is saved then: the weights and moments lie on the GPU.

    Args:
        saved: says what there is to go on from.

    Raises:
        RunStopped: the GPU is lost.
    """
    try:
        yield
    except RuntimeError as error:
        line = lost_gpu(error)
        if line is None:
            raise
        raise RunStopped(f"{line}; {saved()}") from error

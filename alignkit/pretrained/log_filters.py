"""Keeps transformers' own progress bars and load reports off standard error: alignkit says what matters of them."""

from __future__ import annotations


def quieten() -> None:
    """Turn off transformers' bars and everything it logs below an error, for the rest of the process."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

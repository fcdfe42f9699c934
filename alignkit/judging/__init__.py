"""Verdicts and the numbers beside them."""

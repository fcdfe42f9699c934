"""Scores of completions: the Judge protocol and what is built on it."""

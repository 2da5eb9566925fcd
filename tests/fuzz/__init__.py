"""Fuzzing of all that reads what strangers send, each against another implementation of the same.

A target is a module here with a `check`, which takes any bytes and raises `AssertionError` (or whatever the
code raised that it must not) when something is wrong. `python -m tests.fuzz` looks for such bytes with
atheris; `test_corpus.py` runs what it has found so far through the same checks, without atheris.
"""

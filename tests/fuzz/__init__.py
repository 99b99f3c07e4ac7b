"""Inputs that nobody would think of, for every reader: `tests.fuzz.targets` has the functions.

`test_targets` runs each for a fixed, repeatable number of inputs; `python -m tests.fuzz --seconds
600` runs them on random ones.
"""

"""Coverage-guided fuzzing of whatever takes bytes from outside: `make fuzz`, or `scripts/fuzz.sh NAME --seconds N`.

`targets.py` says what is fuzzed and what must hold, `__main__.py` lets atheris at it, and `crashes/` keeps what once
broke a promise, which the tests replay. Python code is what coverage is of; the C libraries below are not compiled for
it, so that what they do is found by structure (`testbed/hostile`) and luck.
"""

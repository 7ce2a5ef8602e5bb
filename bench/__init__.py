"""Benchmarks: each module named here has `run()`, which gives one JSON object with cases and targets.

A figure is a ratio within one run, by CPU time where that answers the question; a time alone says
nothing about another machine.
"""

NAMES = (
    "efficiency",
    "recipes",
    "costs",
    "peers",
    "overload",
    "verdict",
    "plan",
    "tuner",
    "drop_in",
    "alerts",
    "hostile",
    "sandbox",
)
"""All benchmarks: modules of this package, in the order in which `make bench` runs them."""

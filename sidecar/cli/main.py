"""Which command is meant, and how it ends: 0 well, 2 wrong settings, 1 anything else; `doctor` says its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sidecar.cli import doctor, inject, plan, recipe, token, top, tune
from sidecar.cli.bench import bench
from sidecar.cli.serve import serve
from sidecar.errors import SetupError
from sidecar.settings import ENV_PREFIX, load_settings, slips


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sidecar", description="A preprocessing sidecar that keeps the GPU fed."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser(
        "serve",
        help="run the server",
        description="Run the server until SIGTERM or SIGINT, then drain. Settings: defaults, then --config, "
        f"then the environment ({ENV_PREFIX}SERVER__DRAIN_S=5), then --set; the later wins.",
    )
    _add_settings(serving)
    serving.add_argument(
        "--check", action="store_true", help="check the settings and recipes, bind nothing, and exit"
    )
    benching = commands.add_parser(
        "bench", help="run a benchmark", description="Run one benchmark of the checkout."
    )
    benching.add_argument("name", help="its name, such as efficiency")
    benching.add_argument(
        "--rounds", type=int, help="so many rounds, or of whatever it counts; none: its own number"
    )
    benching.add_argument("--json", action="store_true", help="print the whole result as one JSON object")
    recipe.add_arguments(
        commands.add_parser(
            "recipe",
            help="show or export what is done with a model's media",
            description="Show what a model's files make of its media, or export the part that a GPU may do.",
        )
    )
    doctor.add_arguments(
        commands.add_parser(
            "doctor",
            help="say whether the accelerator is kept waiting, by what, and what would help",
            description="Ask a running sidecar whether the accelerator was kept waiting, by what, and what would help.",
        )
    )
    top.add_arguments(
        commands.add_parser(
            "top",
            help="show the same, live",
            description="Show what the accelerator and the sidecar are at, live, until q or Ctrl-C.",
        )
    )
    tune.add_arguments(
        commands.add_parser(
            "tune",
            help="find the best plan for your own media and models, by trying",
            description="Send a corpus to a server of its own under one plan after the other, and say which does most.",
        )
    )
    inject.add_arguments(
        commands.add_parser(
            "inject",
            help="add the sidecar to a Kubernetes workload: YAML in, YAML out",
            description="Read Kubernetes objects, put the sidecar beside their model server, write them.",
        )
    )
    token.add_arguments(
        commands.add_parser(
            "token",
            help="make a token for a tenant",
            description="Make a token, to standard output, and its line for `callers.tokens`, to standard error.",
        )
    )
    planning = commands.add_parser(
        "plan",
        help="say which threads the server would run here, and why",
        description="Say what the container has, the threads that follow from it, and why these numbers.",
    )
    _add_settings(planning)
    plan.add_arguments(planning)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """The flags that settings come by."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"YAML settings file (or {ENV_PREFIX}CONFIG)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="set one key, such as server.listen='[0.0.0.0:50051]'; may be repeated",
    )


# The commands that read their own flags and need no settings.
_ASKED: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "recipe": recipe.recipe,
    "doctor": doctor.doctor,
    "top": top.top,
    "tune": tune.tune,
    "inject": inject.inject,
    "token": token.token,
}


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs a command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    named = environ.get(f"{ENV_PREFIX}CONFIG")
    try:
        if options.command == "bench":
            return bench(options.name, as_json=options.json, rounds=options.rounds)
        if options.command in _ASKED:
            return _ASKED[options.command](options)
        file = options.config or (Path(named) if named else None)
        load = partial(load_settings, file, environ, options.overrides)
        if options.command == "plan":
            return plan.plan(load(), options)
        return serve(load, file, check_only=options.check, slips=slips(environ))
    except SetupError as error:
        print(f"sidecar: {error.message}", file=sys.stderr)  # noqa: T201 - a command talks to its terminal
        return 2

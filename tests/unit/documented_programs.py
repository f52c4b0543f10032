"""Documented shell lines, given to the parsers of their programs: the typer app, Snakemake's parser, the Makefile.

Nothing is run. `check` raises `Wrong` for a line that its program would refuse.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from typing import Any

from typer.main import get_command

from grace.cli import app
from tests.unit.documents import ROOT, overlays

PARSED_ELSEWHERE = {"source", "huggingface-cli", "mkdocs", "git", "cd", "export", "apptainer", "rm"}
"""Programs that are not ours and have no parser here."""


class Wrong(Exception):
    """A documented command that its program would refuse."""


def parsed_by_grace(arguments: list[str]) -> None:
    """Have the typer app parse a command line; nothing is run."""
    command = get_command(app)
    _disarm(command)
    try:
        command.main(arguments, prog_name="grace", standalone_mode=False)
    except Exception as error:  # usage errors are of typer's own copy of click
        raise Wrong(f"{type(error).__name__}: {getattr(error, 'message', error)}") from None


def _disarm(command: Any) -> None:
    command.callback = lambda **_: None
    for below in getattr(command, "commands", {}).values():
        _disarm(below)


def parsed_by_snakemake(arguments: list[str]) -> Any:
    """Have Snakemake's own parser read a command line; every configuration file in it is there or is written by a document."""
    from snakemake.cli import get_argument_parser

    try:
        given = get_argument_parser().parse_args(arguments)
    except SystemExit:
        raise Wrong(f"snakemake {shlex.join(arguments)}: not understood") from None
    missing = [str(file) for file in given.configfile or () if not ((ROOT / file).is_file() or str(file) in overlays())]
    if missing:
        raise Wrong(f"no such configuration: {', '.join(missing)}")
    for profile in given.profile or ():
        if not (ROOT / profile / "config.yaml").is_file():
            raise Wrong(f"no such profile: {profile}")
    return given


def known_to_make(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        known = re.search(rf"\b{re.escape(name)}\b", makefile) if equals else name in targets
        if not known:
            raise Wrong(f"make knows no {argument}")


def found_by_python(arguments: list[str]) -> None:
    """`python SCRIPT` or `python -m MODULE`: it is there; of pytest, the files that it is given too."""
    if arguments[:1] == ["-m"] and arguments[1] == "grace":
        return parsed_by_grace(arguments[2:])
    if arguments[:1] == ["-m"]:
        if importlib.util.find_spec(arguments[1]) is None:
            raise Wrong(f"no module {arguments[1]}")
        files = [argument for argument in arguments[2:] if argument.startswith("tests")]
    else:
        files = arguments[:1]
    for file in files:
        if not (ROOT / file.partition("::")[0]).exists():
            raise Wrong(f"no such file: {file}")


def known_to_pip(arguments: list[str]) -> None:
    for option, value in itertools.pairwise(arguments):
        if option == "-r" and not (ROOT / value).is_file():
            raise Wrong(f"no such file: {value}")


PROGRAMS = {
    "grace": parsed_by_grace,
    "snakemake": parsed_by_snakemake,
    "make": known_to_make,
    "python": found_by_python,
    "pip": known_to_pip,
}


def check(line: str) -> None:
    """Raise `Wrong` if the program of a shell line would refuse it, or is none that the documents may use."""
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program in PROGRAMS:
        PROGRAMS[program](arguments)
    elif program not in PARSED_ELSEWHERE:
        raise Wrong(f"unknown program {program}")

"""What `make run` prints around a run: how to follow the stages, where the report is, what to try next.

Reads config.yaml of the working directory and the files that override it; writes nothing.

    python -m grace.workflow.hints before|after [FILE ...]
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from grace.system.errors import GraceError
from grace.workflow.config import Config, load

QUERIES = {"scenes": "a red circle"}
PHOTO_QUERY = "a dog on a beach"
"""For data sets of photographs."""


def before(config: Config) -> str:
    """The command that follows the logs of the long stages; a log that does not exist yet is followed once it does."""
    seeds = f"seed{_braces(config.seeds)}"
    stages = ["dataset", "tower", "encode", *(["captioner"] if config.captioner_is_read else []), "pseudo_queries"]
    stages.append(f"{_braces(config.trained_schemes)}/{seeds}/{_braces(['train', 'retrieve'])}")
    logs = shlex.quote(f"{config.output}/logs/{config.dataset.name}/")
    return f"Follow the stages in another terminal:\n  tail -n 1 -F {logs}{_braces(stages)}.log 2> /dev/null"


def after(config: Config, folder: Path, program: Path) -> str:
    """Where the report is and the search to try next; `program`: the installed command `grace`, or Python."""
    system = f"{config.output}/{config.dataset.name}/{config.schemes[0]}/seed{config.seeds[0]}"
    query = QUERIES.get(config.dataset.source, PHOTO_QUERY)
    shown = str(program.relative_to(folder) if program.is_relative_to(folder) else program)
    called = [shown] if program.name == "grace" else [shown, "-m", "grace"]
    search = [*called, "search", query, "--system", system, "--picture", "found.png"]
    return (
        f"Report: {folder / config.output / 'report/index.html'}\n"
        f"Search: {' '.join(_double_quoted(word) for word in search)}"
    )


def _braces(items: Sequence[object]) -> str:
    """{a,b}, which shells expand; a single item without braces."""
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else "{" + ",".join(words) + "}"


def _double_quoted(word: str) -> str:
    """A word for the command line: in double quotes if spaces are its only special characters, which reads better than shlex's
    single quotes."""
    return (
        f'"{word}"'
        if " " in word and shlex.quote(word.replace(" ", "")) == word.replace(" ", "")
        else shlex.quote(word)
    )


def main(arguments: Sequence[str]) -> int:
    """Print the hints; return 2, with a message, for an invalid configuration."""
    try:
        config = load(Path("config.yaml"), *map(Path, arguments[1:]))
    except GraceError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if arguments[0] == "before":
        print(before(config), flush=True)
        return 0
    python = Path(shutil.which("python") or sys.executable)  # that of .venv: `make` puts it first in PATH
    installed = python.with_name("grace")
    print(after(config, Path.cwd(), installed if installed.exists() else python), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

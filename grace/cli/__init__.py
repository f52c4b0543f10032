"""The command line: one command per stage, which calls the function of that name.

A user's error is one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from grace.cli import configuration, data, ended, models, plan, records, results, search
from grace.records.secrets import mask_output
from grace.system.cancelled import refuse_if_cancelled
from grace.system.ending import end_on_request, end_with_workflow
from grace.system.exit_codes import USER_ERROR, End, end_of
from grace.system.version import version_line
from grace.workflow.gpus import take_gpus

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="GRACE: generative image retrieval, one command per stage. Every command of the workflow can be run by hand.",
)
for room in (data, models, results, search, plan, configuration, records, ended):
    app.add_typer(room.app)


def _print_version(asked: bool) -> None:
    if asked:
        print(version_line())
        raise typer.Exit


@app.callback()
def _before_every_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and the commit, if any."
        ),
    ] = False,
) -> None:
    """The options of `grace` itself."""


# typer includes its own copy of click; this is that copy's ClickException, reached through its public subclass.
CommandLineError: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run a command; the exit code is 0, 1 (a bug in GRACE), 2 (a user's error), 75 (training ended by SIGTERM; run the
    command again to resume) or 130 (interrupted)."""
    mask_output()
    end_on_request()
    end_with_workflow()
    try:
        if len(sys.argv) > 1:
            refuse_if_cancelled()
            take_gpus(sys.argv[1])
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        end = end_of(KeyboardInterrupt())
    except CommandLineError as error:  # unknown option, missing option, wrong type; without a command, the help
        said = error.format_message()
        is_help = said.lstrip().startswith("Usage:")
        end = End(said if is_help else f"error: {' '.join(said.split())}", USER_ERROR)
    except (Exception, KeyboardInterrupt) as error:
        end = end_of(error)
        if end is None:
            raise
    print(end.line, file=sys.stderr)
    sys.exit(end.code)

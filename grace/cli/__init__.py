"""The command line: one command a stage, each a thin call of the function of that name.

A user's error is one line on standard error and exit code 2.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any

import typer

from grace.cli import configuration, data, ended, models, plan, records, results, search
from grace.records.secrets import mask_output
from grace.system.cancelled import refuse_if_cancelled
from grace.system.ending import end_on_request, end_with_workflow
from grace.system.errors import GraceError, Interrupted
from grace.system.version import version_line
from grace.workflow.gpus import take_gpus

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="GRACE: generative image retrieval, one command a stage. Every command of the workflow can be run by hand.",
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


# typer brings its own copy of click; this is that copy's ClickException, by its public subclass.
CommandLineError: Any = typer.BadParameter.__mro__[2]

# What the machine refuses is not a defect of ours: no permission, no space, a file where a folder should be.
MACHINE_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EFBIG,
    errno.ENOMEM,
}


def main() -> None:
    """Run a command; the exit code is 0, 1 (a defect of ours), 2 (a user's error), 75 (training ended by SIGTERM, run again to
    go on) or 130 (interrupted)."""
    mask_output()
    end_on_request()
    end_with_workflow()
    try:
        if len(sys.argv) > 1:
            refuse_if_cancelled()
            take_gpus(sys.argv[1])
        sys.exit(app(standalone_mode=False))
    except Interrupted as error:
        print(f"interrupted: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(75)
    except GraceError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        cut_short = error.errno is None and "requested and" in str(error)  # numpy's words for a full disk
        if error.errno not in MACHINE_ERRORS and not cut_short:
            raise
        what = "No space left on device" if cut_short else error.strerror
        print(f"error: {what}: {error.filename or 'while writing'}", file=sys.stderr)
        sys.exit(2)
    except MemoryError as error:
        print(f"error: memory ran out ({str(error) or 'MemoryError'}); give the stage more", file=sys.stderr)
        sys.exit(2)
    except ImportError as error:
        if "failed to map segment" not in str(error):  # the loader's words for a library that memory has no room for
            raise
        print(f"error: memory ran out while a library was loaded ({error}); give the stage more", file=sys.stderr)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except CommandLineError as error:  # unknown option, missing option, wrong type; or no command at all: the help
        said = error.format_message()
        print(said if said.lstrip().startswith("Usage:") else f"error: {' '.join(said.split())}", file=sys.stderr)
        sys.exit(2)

"""Commands about the configuration itself: resolve, config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace.cli.options import OutputFile, Settings, parsed
from grace.system.errors import GraceError

app = typer.Typer()


@app.command("resolve")
def resolve_command(output: OutputFile, settings: Settings = "{}") -> None:
    """Write the whole configuration, including defaults, as JSON (for the report)."""
    from grace.records.sidecars.recording import recorded
    from grace.system.files import write_json
    from grace.workflow.config import Config

    given = parsed(Config, settings)
    with recorded("resolve", reads={}, writes=[output], settings={}):
        write_json(output, given.model_dump())


@app.command("config")
def config_command(
    write: Annotated[bool, typer.Option("--write", help="write config.yaml and config/schema.json")] = False,
    drift: Annotated[
        bool, typer.Option("--drift", help="fail if these files differ from what --write would write")
    ] = False,
    check: Annotated[
        list[Path] | None,
        typer.Option(help="check configuration files; later ones override earlier ones and the defaults"),
    ] = None,
    get: Annotated[str | None, typer.Option(help="print the value of one key, such as train.steps")] = None,
    configfile: Annotated[list[Path] | None, typer.Option(help="files that override config.yaml, for --get")] = None,
) -> None:
    """Generate config.yaml and its JSON schema from the models; check or read a configuration file."""
    from grace.data.download.sources import check_download
    from grace.workflow.config import load
    from grace.workflow.config.export import drifted, value_of, write_all
    from grace.workflow.config.paths import check_paths

    if check:
        config = load(*check)
        check_paths(config)
        check_download(config)
        typer.echo(f"{', '.join(map(str, check))}: valid")
    elif get is not None:
        typer.echo(value_of(load(Path("config.yaml"), *(configfile or ())), get))
    elif drift:
        if names := drifted(Path.cwd()):
            raise GraceError(
                f"{', '.join(names)}: out of date with grace/workflow/config/; run python -m grace config --write"
            )
    elif write:
        for path in write_all(Path.cwd()):
            typer.echo(f"wrote {path}")
    else:
        raise GraceError("config: give --write, --drift, --check FILE or --get KEY")

"""What every section of the configuration shares: its strictness, its types of numbers, and errors in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from grace.system.errors import GraceError
from grace.workflow.config.words import said

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


def _expanded(value: str) -> str:
    try:
        return str(Path(value).expanduser()) if value.startswith("~") else value
    except RuntimeError:
        raise ValueError(f"there is no home folder of {value.partition('/')[0]}; write the path in full") from None


Home = Annotated[str, AfterValidator(_expanded)]
"""A path, in which `~` is one's home folder, or a name that a hub or a package knows."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse(
    model: type[Section], values: Any, where: str, origin: Callable[[tuple, Any], str] = lambda place, value: ""
) -> Any:
    """Validate `values` against `model`; all problems become one `GraceError` line that starts with `where`.

    `origin` tells the file that a wrong value of a key is from ("": not known), which is named with the problem.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            file = origin(problem["loc"], problem["input"])
            problems.append(said(model, problem) + (f" in {file}" if file else ""))
        raise GraceError(f"{where}: " + "; ".join(problems)) from None


def parse_settings(model: type[Section], text: str, where: str) -> Any:
    """Validate a stage's `--settings`: inline JSON, or the path of a YAML or JSON file."""
    try:
        values = (
            yaml.safe_load(text)
            if text.lstrip()[:1] in ("{", "[", "")
            else yaml.safe_load(Path(text).read_text(encoding="utf-8"))
        )
    except (OSError, UnicodeDecodeError) as error:
        key, equals, value = text.partition("=")
        hint = f"""; write '{{"{key.strip()}": {value.strip()}}}'""" if equals and not Path(text).suffix else ""
        raise GraceError(
            f"{where}: cannot read {text!r} ({error}); give inline JSON or the path of a YAML file{hint}"
        ) from None
    except yaml.YAMLError as error:
        raise GraceError(f"{where}: not valid JSON or YAML: {' '.join(str(error).split())}") from None
    return parse(model, values or {}, where)

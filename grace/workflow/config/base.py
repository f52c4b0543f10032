"""What all sections of the configuration share: strictness, numeric types, and readable errors."""

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
        raise ValueError(f"there is no home folder for {value.partition('/')[0]}; write the full path") from None


Home = Annotated[str, AfterValidator(_expanded)]
"""A path, in which `~` is the home folder, or the name of something in a hub or package."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse(
    model: type[Section], values: Any, where: str, origin: Callable[[tuple, Any], str] = lambda place, value: ""
) -> Any:
    """Validate `values` against `model`; raises a single-line `GraceError` with all problems that starts with `where`.

    `origin` returns the file that a wrong value comes from ("": unknown), which is added to the problem.
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

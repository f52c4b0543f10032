"""What every section of the configuration shares: its strictness, its types of numbers, and errors in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grace.errors import GraceError, did_you_mean

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def parse(model: type[Section], values: Any, where: str) -> Any:
    """Validate `values` against `model`; every problem becomes one `GraceError` line that starts with `where`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise GraceError(f"{where}: " + "; ".join(_say(model, problem) for problem in error.errors())) from None


def parse_settings(model: type[Section], text: str, where: str) -> Any:
    """Validate a stage's `--settings`: inline JSON, or the path of a YAML or JSON file."""
    try:
        values = (
            yaml.safe_load(text)
            if text.lstrip()[:1] in ("{", "[", "")
            else yaml.safe_load(Path(text).read_text(encoding="utf-8"))
        )
    except (OSError, UnicodeDecodeError) as error:
        raise GraceError(
            f"{where}: cannot read {text!r} ({error}); give inline JSON or the path of a YAML file"
        ) from None
    except yaml.YAMLError as error:
        raise GraceError(f"{where}: not valid JSON or YAML: {' '.join(str(error).split())}") from None
    return parse(model, values or {}, where)


def _say(model: type[BaseModel], problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section: Any = model
        for part in problem["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"unknown key '{place}'" + did_you_mean(str(problem["loc"][-1]), section.model_fields)
    said = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {said} (got {problem['input']!r})" if place else said

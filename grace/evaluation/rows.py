"""The form of a row of metrics.json: its keys and their types."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from grace.evaluation.measures import MEASURES
from grace.system.errors import GraceError

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Versus(_Part):
    difference: float
    interval: Pair
    p_value: float


def _of_each_measure(name: str, kind: Any) -> type[BaseModel]:
    """A model with one field of type `kind` per measure; the measures' names, such as R@1, are aliases."""
    fields = {f"measure_{place}": (kind, Field(alias=measure)) for place, measure in enumerate(MEASURES)}
    return create_model(name, __base__=_Part, **fields)


class _Row(_of_each_measure("_Measures", float)):
    dataset: str
    system: str
    seed: int | None
    queries: int
    intervals: _of_each_measure("_Intervals", Pair)
    memorization: float | None
    valid_rate: float | None
    versus_baseline: _of_each_measure("_Differences", _Versus) | None
    confidence: float
    setting: str


ROW_KEYS = tuple(field.alias or name for name, field in _Row.model_fields.items())


def check_row(row: Any, where: str) -> None:
    """Raise a `GraceError` that begins with `where` if `row` is not a row of metrics."""
    check_keys(row, ROW_KEYS, where)
    try:
        _Row.model_validate(row)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise GraceError(
            f"{where}: {place}: {problem['msg']} (got {problem['input']!r}); make the file again"
        ) from None


def check_keys(value: Any, keys: Sequence[str], where: str) -> None:
    """Raise a `GraceError` that begins with `where` if `value` is not an object with all `keys`."""
    if not isinstance(value, dict):
        raise GraceError(f"{where}: a JSON object is expected")
    missing = [key for key in keys if key not in value]
    if missing:
        raise GraceError(f"{where}: the key(s) {', '.join(missing)} are missing; make the file again")

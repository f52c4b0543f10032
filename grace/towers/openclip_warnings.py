"""Collect the warnings that open_clip issues while loading a model where it should fail.

It uses `warnings.warn` for some and the root logger for others. That it resized position embeddings, because the weights
are for another image size or text length, is only logged at level INFO.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RESIZED = ("Resizing position embedding", "Resizing text position embedding")
SETTLED = "re-downloading the file"  # a broken file in the cache, which is fetched and checked again


@contextmanager
def warnings_of_open_clip() -> Iterator[list[str]]:
    """Collect open_clip's warnings inside the context; those of other packages are passed on."""
    import open_clip

    home = Path(open_clip.__file__).parent
    found: list[str] = []
    root = logging.getLogger()
    listener = _Listener(home, found, root.level, list(root.handlers))
    for handler in listener.others:
        handler.addFilter(listener.passes)
    root.addHandler(listener)
    root.setLevel(min(root.level, logging.INFO))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        root.setLevel(listener.before)
        root.removeHandler(listener)
        for handler in listener.others:
            handler.removeFilter(listener.passes)
    for warning in caught:
        aged = issubclass(warning.category, DeprecationWarning | PendingDeprecationWarning | FutureWarning)
        if aged or home not in Path(warning.filename).parents:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif SETTLED not in str(warning.message):
            found.append(str(warning.message))


class _Listener(logging.Handler):
    """Keeps open_clip's records; handles those of other packages like Python's default if the root has no other handler."""

    def __init__(self, home: Path, found: list[str], before: int, others: list[logging.Handler]) -> None:
        super().__init__(logging.INFO)
        self.home, self.found, self.before, self.others = home, found, before, others

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if self._own(record):
            if record.levelno >= logging.WARNING or said.startswith(RESIZED):
                self.found.append(said)
        elif not self.others and logging.lastResort and record.levelno >= self.before:
            logging.lastResort.handle(record)

    def passes(self, record: logging.LogRecord) -> bool:
        """Filter for the existing handlers: nothing from open_clip, nothing below the original level."""
        return not self._own(record) and record.levelno >= self.before

    def _own(self, record: logging.LogRecord) -> bool:
        return self.home in Path(record.pathname).parents

"""What open_clip says while it loads a model, instead of failing: warnings, log records, and positions that it resized.

It uses `warnings.warn` for some of it and the root logger for the rest; that the weights' position embeddings are of another image
size or text length it only logs as information.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RESIZED = ("Resizing position embedding", "Resizing text position embedding")
SETTLED = "re-downloading the file"  # a broken file in the cache, which is fetched anew and checked again


@contextmanager
def warnings_of_open_clip() -> Iterator[list[str]]:
    """Collect what open_clip warns of while this is in force; what other packages say goes its way."""
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
    """Keeps open_clip's records; without another handler on the root logger it shows other packages' as Python would."""

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
        """What the handlers that were there before are shown: nothing below the level of before, nothing of open_clip."""
        return not self._own(record) and record.levelno >= self.before

    def _own(self, record: logging.LogRecord) -> bool:
        return self.home in Path(record.pathname).parents

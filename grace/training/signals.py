"""SIGTERM of a batch system as a request that the training loop honours between two steps, in all processes at the same one."""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch

from grace.system.cancelled import mark_cancelled
from grace.training.processes import over_all


class Termination:
    """Inside this context SIGTERM is noted instead of obeyed; the former handler is restored on leaving."""

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> Termination:
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():  # no other thread may set a handler
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: object) -> None:
        self._asked = True
        mark_cancelled()  # before the state is saved: a scheduler may not wait for that

    def asked_of_any(self) -> bool:
        """True, in every process at the same step, once any of them got the signal."""
        return bool(over_all(torch.tensor([float(self._asked)], dtype=torch.float64), "max").item())

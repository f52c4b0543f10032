"""Measure repeated times and quantiles, and run functions in fresh processes with clean memory."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np


def timed(action: Callable[[], Any], repeats: int, warm: int = 0) -> list[float]:
    """Seconds of `repeats` calls, after `warm` uncounted ones. Garbage is collected before a call, not during it."""
    out = []
    for number in range(warm + repeats):
        gc.collect()
        start = time.perf_counter()
        result = action()
        out.append(time.perf_counter() - start)
        del result  # else the next call would have to allocate memory next to it
        if number < warm:
            out.pop()
    return out


def median(seconds: list[float]) -> float:
    return float(np.median(seconds))


def quantiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p95."""
    low, high = np.quantile(seconds, [0.5, 0.95])
    return {"p50_s": float(low), "p95_s": float(high)}


def call(function: Callable, *arguments: Any, fresh: bool) -> Any:
    """Call `function`; if `fresh`, in a new interpreter, so that memory is counted from zero and freed at the end."""
    if not fresh:
        return function(*arguments)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()

"""How many threads a training uses on a processor: fewer where other processes keep its cores busy.

The threads of one operation wait for each other, so a thread that shares its core with another program holds up all of them:
beside one busy core two threads train at a quarter of their speed, and one thread at two thirds of it. No setting of OpenMP's
waiting (GOMP_SPINCOUNT, OMP_WAIT_POLICY) is good both alone and beside another program; `python -m benchmarks.contention`
compares them. So a training looks at its cores before it begins, and leaves out those that are in use.

The number of threads changes the last bits of sums. `GRACE_THREADS=fixed` in the environment, or `resources.adapt_threads: false`,
keeps the number that was asked for.
"""

from __future__ import annotations

import os
import sys

import psutil
import torch

LOOKS, SECONDS = 3, 0.4
"""How often, and for how long each time, the cores are looked at. The best look counts: a short burst is no busy core."""


def leave_busy_cores() -> int:
    """Set torch's threads to the idle cores of this process, at least 1 and at most as many as torch has.

    Does nothing on a machine with a GPU, with one thread, or under GRACE_THREADS=fixed. Says what it found on standard error
    where it took fewer. Returns the number of threads that torch uses now.
    """
    allowed = torch.get_num_threads()
    if allowed == 1 or os.environ.get("GRACE_THREADS") == "fixed" or torch.cuda.is_available():
        return allowed
    idle = max(idle_cores(SECONDS) for _ in range(LOOKS))
    threads = max(1, min(allowed, int(idle + 0.5)))
    if threads < allowed:
        print(
            f"{threads} of {allowed} threads: other processes keep the cores busy ({idle:.1f} are idle). Set "
            "resources.adapt_threads: false to use all threads all the same",
            file=sys.stderr,
        )
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read by the records of this run and by libraries loaded later
    return threads


def idle_cores(seconds: float) -> float:
    """The idle share of every core that this process may run on, summed, over the next `seconds`."""
    mine = os.sched_getaffinity(0)
    busy = psutil.cpu_percent(interval=seconds, percpu=True)
    return sum(1 - percent / 100 for core, percent in enumerate(busy) if core in mine)

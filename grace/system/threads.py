"""Choose the number of CPU threads of a training: fewer if other processes keep cores busy.

The threads of one operation wait for each other, so a thread that shares its core with another program slows down all of
them: with one busy core, two threads train at a quarter of their speed, and one thread at two thirds of it. No setting of
OpenMP's waiting (GOMP_SPINCOUNT, OMP_WAIT_POLICY) works well both alone and next to another program;
`python -m benchmarks.contention` compares them. So a training checks its cores before it starts, and avoids busy ones.

The number of threads changes the last bits of sums. `GRACE_THREADS=fixed` in the environment, or `resources.adapt_threads:
false`, keeps the requested number.
"""

from __future__ import annotations

import os
import sys

import psutil
import torch

LOOKS, SECONDS = 3, 0.4
"""How often and for how long the cores are measured. The best measurement counts, to ignore short bursts."""


def leave_busy_cores() -> int:
    """Set torch's threads to the idle cores of this process, at least 1 and at most as many as torch has.

    Does nothing on a machine with a GPU, with one thread, or with GRACE_THREADS=fixed. If it uses fewer, it says so on
    standard error. Returns the number of threads that torch now uses.
    """
    allowed = torch.get_num_threads()
    if allowed == 1 or os.environ.get("GRACE_THREADS") == "fixed" or torch.cuda.is_available():
        return allowed
    idle = max(idle_cores(SECONDS) for _ in range(LOOKS))
    threads = max(1, min(allowed, int(idle + 0.5)))
    if threads < allowed:
        print(
            f"using {threads} of {allowed} threads: other processes keep the cores busy ({idle:.1f} are idle). Set "
            "resources.adapt_threads: false to use all threads anyway",
            file=sys.stderr,
        )
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read by this run's records and by libraries loaded later
    return threads


def idle_cores(seconds: float) -> float:
    """The number of idle cores (sum of idle shares) among those allowed to this process, over the next `seconds`."""
    mine = os.sched_getaffinity(0)
    busy = psutil.cpu_percent(interval=seconds, percpu=True)
    return sum(1 - percent / 100 for core, percent in enumerate(busy) if core in mine)

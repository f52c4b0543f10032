"""torchrun for one training: the same options, and the exit code and words of the training itself.

    python -m grace.training.launch --standalone --nproc-per-node 4 -m grace train ...
    srun python -m grace.training.launch --nnodes 2 --nproc-per-node 4 --rdzv-endpoint HOST:29500 ... -m grace train ...

What differs from torchrun: a SIGTERM is handed to the training processes, and they have as long as they need to save their
state (torchrun kills them after 30 seconds); then this ends with their code, 75, where torchrun ends with 1 and a traceback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from grace.system.cancelled import mark_cancelled, refuse_if_cancelled
from grace.system.errors import GraceError
from grace.workflow.gpus import take_gpus


def main(arguments: list[str] | None = None) -> int:
    """Start the processes, wait for them, and return the exit code of the first that failed (0: none did)."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        refuse_if_cancelled()
        if "grace" in given[:-1]:  # the GPUs are chosen once for all processes
            take_gpus(given[given.index("grace") + 1])
    except GraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    signal.signal(signal.SIGTERM, _hand_on)
    options = parse_args(["--signals-to-handle", "SIGINT,SIGHUP,SIGQUIT", *given])
    try:
        run(options)
    except ChildFailedError as error:
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        return first.exitcode if first.exitcode >= 0 else 128 - first.exitcode  # as a shell counts a signal
    return 0


def _hand_on(number: int, frame: FrameType | None) -> None:
    mark_cancelled()
    children = _children(os.getpid())
    if not children:  # still waiting for other nodes: there is nothing to save
        sys.exit(128 + number)
    for child in children:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(child, number)


def _children(process: int) -> list[int]:
    """The processes that `process` has started, in any of its threads."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):  # the thread has just ended
            found += map(int, task.read_text().split())
    return found


if __name__ == "__main__":
    sys.exit(main())

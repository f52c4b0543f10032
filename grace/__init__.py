"""GRACE: generative image retrieval, as one pipeline (`grace --help`) and as a library.

    import grace

    system = grace.open("results/scenes/atomic/seed0")
    system.search(["a red circle"], top=5)

Importing the package is quick; torch is loaded when a system is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grace.system.errors import GraceError

if TYPE_CHECKING:
    from pathlib import Path

    from grace.retrieval.system import System

__all__ = ["GraceError", "System", "__version__", "open"]
__version__ = "0.1.0"


def open(folder: Path | str, *, gallery_only: bool = False, device: str = "auto") -> System:
    """Open a trained system, to search its images and to look into it.

    Args:
        folder: the system's folder, such as results/scenes/atomic/seed0 or results/scenes/baseline (the dual encoder), or a
            folder above it that holds no other trained system.
        gallery_only: search the test images alone, as the workflow does; otherwise every image that has an identifier (train
            and test images, and val images where trainings are validated; the baseline: every image of the data set).
        device: "auto" (a GPU where torch sees one), "cpu" or "cuda". The baseline runs on the processor.

    Returns:
        The system; see `System` for what it can be asked.

    Raises:
        GraceError: the folder holds no trained system or several, a part of it is missing or damaged, its parts do not belong
            together, or the device is unknown or missing.

    Examples:
        >>> import grace
        >>> grace.open("results/scenes/atomic/seed0", gallery_only=True)
        <grace.System atomic, seed 0: 14 images>
    """
    from grace.retrieval.opening import open_system

    return open_system(folder, gallery_only=gallery_only, device=device)


def __getattr__(name: str) -> Any:
    if name == "System":
        from grace.retrieval.system import System

        return System
    raise AttributeError(f"module 'grace' has no attribute {name!r}")

"""What `grace --version` prints: the version, and the commit where the package runs from a git checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from grace import __version__


def version_line() -> str:
    """`grace 0.1.0`, or in a git checkout `grace 0.1.0 (commit 1a2b3c4)`, with `-dirty` after the commit if files were edited."""
    commit = checked_out(Path(__file__).parents[2])
    return f"grace {__version__} (commit {commit})" if commit else f"grace {__version__}"


def checked_out(root: Path) -> str | None:
    """The commit checked out in the folder `root`; None if it is not a git checkout, or if git is missing or fails.

    Only a checkout at `root` itself counts: inside another project's checkout the commit would be that project's.
    """
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, text=True, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # the version is printed without the commit
        return None
    return done.stdout.strip() or None

"""The package as a library: what is public, how quickly it is imported, the examples of its docstrings, and the notebook."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import grace
from grace.retrieval import system

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "search.ipynb"


def test_importing_the_package_loads_no_heavy_one() -> None:
    """Neither on import nor for naming the class; torch comes with the first system that is opened."""
    said = "import sys, grace; print({'torch', 'pandas', 'numpy'} & set(sys.modules)); grace.System; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], text=True, capture_output=True, check=True, cwd=ROOT)
    assert done.stdout.split("\n")[:2] == ["set()", "False"]


def test_what_is_public() -> None:
    assert sorted(grace.__all__) == ["GraceError", "System", "__version__", "open"]
    assert all(getattr(grace, name) is not None for name in grace.__all__)
    assert grace.System is system.System
    with pytest.raises(AttributeError, match="has no attribute 'shut'"):
        _ = grace.shut


PUBLIC = [("open", grace.open), ("System", grace.System)] + [
    (f"System.{name}", value)
    for name, value in vars(grace.System).items()
    if not name.startswith("_") and callable(value)
]


@pytest.mark.parametrize(("name", "value"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_the_example_of_a_docstring_runs(
    name: str, value: object, tiny_results: Path, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "results").symlink_to(tiny_results / "results")
    monkeypatch.chdir(tmp_path)
    tests = [test for test in doctest.DocTestFinder(recurse=False).find(value, name, globs={}) if test.examples]
    assert len(tests) == 1, f"{name} has no example"
    said: list[str] = []
    results = doctest.DocTestRunner().run(tests[0], out=said.append)
    assert results.attempted >= 2 and not results.failed, "".join(said)


def test_the_notebook_runs(tiny_results: Path, tmp_path: Path, monkeypatch) -> None:
    """From top to bottom on a tiny system; every cell of code says or shows something, and a picture is shown."""
    monkeypatch.setenv("GRACE_SYSTEM", str(tiny_results / "results/scenes/structured/seed0"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = {kind for cell in cells for output in cell.outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds
    silent = [cell.source for cell in cells if not cell.outputs]
    assert silent == []
    assert not list(tmp_path.iterdir())


def test_the_notebook_is_kept_small_and_names_no_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert len(text) < 300_000
    assert "/work/" not in text and "/home/" not in text and "/tmp/" not in text

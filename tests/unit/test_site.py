"""The documentation site builds strictly and loads nothing from elsewhere; its generated pages hold every key, command and room."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.main import get_command

from grace.cli import app
from grace.workflow.config import Config
from grace.workflow.stages import STAGES
from tests.unit.documents import DOCUMENTS, ROOT, overlays
from tools import reference


def build(configuration: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", configuration, "--site-dir", site]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """Addresses that a browser loads by itself when it shows a page: scripts, styles, fonts, pictures, frames."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(given.get("href") or "")


def test_every_page_is_built_and_nothing_is_loaded_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= len(DOCUMENTS) - 2  # README and CONTRIBUTING are no pages of the site
    loaded = {address for page in pages for address in Loaded(page).found}
    assert loaded and [address for address in loaded if re.match(r"(https?:)?//", address)] == []
    styles = [style.read_text(encoding="utf-8") for style in site.rglob("*.css")]
    assert styles and not any(re.search(r"url\(\s*[\"']?https?:|@import", style) for style in styles)


def test_no_marker_of_a_generated_part_is_left(site):
    """A misspelled marker would stay a comment that nobody sees."""
    for document in DOCUMENTS:
        assert document.read_text().count("<!-- generated") == len(reference.MARKER.findall(document.read_text()))
    assert not [page for page in site.rglob("*.html") if "<!-- generated" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    ("page", "added"),
    [
        ("index.md", "[gone](tutorials/gone.md)"),
        ("index.md", "[no such heading](tutorials/ten-minutes.md#gone)"),
        ("gone.md", "# A page that is not in the navigation"),
        ("reference/api.md", "::: grace.gone"),
        ("reference/commands.md", "<!-- generated: gone -->"),
    ],
)
def test_a_broken_site_is_refused(tmp_path, page, added):
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("notebooks"))
    for name in ("tools", "grace", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with open(tmp_path / "docs" / page, "a", encoding="utf-8") as file:
        file.write(f"\n{added}\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0, done.stderr
    assert "gone" in done.stdout + done.stderr or "not included in the" in done.stderr


def test_the_reference_holds_every_key():
    text = reference.configuration()

    def look(section, name: str) -> None:
        for key in type(section).model_fields:
            value, dotted = getattr(section, key), f"{name}.{key}".lstrip(".")
            if hasattr(type(value), "model_fields"):
                assert re.search(rf"^#+ {re.escape(dotted)}$", text, re.MULTILINE), dotted
                look(value, dotted)
            else:
                part = re.split(rf"^#+ {re.escape(name)}$", text, flags=re.MULTILINE)[-1] if name else text
                assert f"\n| `{key}` |" in re.split(r"^#+ ", part, flags=re.MULTILINE)[0], dotted

    look(Config(), "")


def test_the_reference_holds_every_command_and_option():
    text = reference.commands()

    def look(command, name: str) -> None:
        assert re.search(rf"^#+ {re.escape(name)}$", text, re.MULTILINE), name
        for parameter in command.params:
            if parameter.name != "help" and parameter.param_type_name == "option":
                assert f"`{parameter.opts[0]}`" in text
        for key, below in getattr(command, "commands", {}).items():
            if not below.hidden:
                look(below, f"{name} {key}")

    look(get_command(app), "grace")
    assert "grace ended" not in text


def test_the_architecture_page_holds_every_room_from_the_top_down():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rooms = [room for layer in contracts[0]["layers"] for room in layer.split(" : ")]
    assert re.findall(r"^\| `grace\.(\w+)` \| \S", reference.rooms(), re.MULTILINE) == rooms


def test_the_pages_name_every_stage():
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\w+) \|", page.partition("| stage |")[2], re.MULTILINE) == list(STAGES)
    assert all(f"| `{stage}` | {number} |" in reference.stages() for stage, number in STAGES.items())


def test_overlays_of_the_documents_are_found():
    assert {"config/photos.yaml", "config/mine.yaml"} <= set(overlays())

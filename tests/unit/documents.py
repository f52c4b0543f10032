"""The documents of the repository as the tests read them: fenced blocks, shell lines, inline code, files that a reader writes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUOTE = re.compile(r"^\s*(?:> ?)?")
FENCE = re.compile(r"^(?P<margin>\s*(?:> ?)?)```(?P<language>\w*)$")
SHELL = "bash"


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, the language that its fence names, its text without the margin of lists and quotes."""

    place: str
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order; a fence that is not closed is an error."""
    found: list[Block] = []
    opened: tuple[str, str, int] | None = None
    lines: list[str] = []
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened, lines = (fence["margin"], fence["language"], number), []
        elif opened and fence:
            found.append(Block(f"{document.relative_to(ROOT)}:{opened[2]}", opened[1], "\n".join(lines)))
            opened = None
        elif opened:
            lines.append(line.removeprefix(opened[0]) if line.startswith(opened[0]) else QUOTE.sub("", line))
    assert opened is None, f"{document}: the fence of line {opened[2]} is not closed"
    return found


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    kept, inside = [], False
    for line in document.read_text(encoding="utf-8").splitlines():
        inside ^= bool(FENCE.match(line))
        kept += [] if inside or FENCE.match(line) else [QUOTE.sub("", line) if line.startswith(">") else line]
    return "\n".join(kept)


def spans(document: Path) -> list[str]:
    """The inline code of a document, each on one line."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(document))]


def shell_lines(document: Path) -> list[tuple[str, str]]:
    """(place, command) of every command in the shell blocks of a document; continued lines are joined."""
    found = []
    for block in blocks(document):
        if block.language == SHELL:
            joined = re.sub(r"\\\n\s*", " ", block.text)
            found += [(block.place, line.strip()) for line in joined.splitlines() if line.strip(" #")]
    return [(place, line) for place, line in found if not line.startswith("#")]


def overlays() -> dict[str, str]:
    """{path: text} of the configuration files that the documents have their readers write.

    A block of YAML whose first line is a comment with a path is such a file; two blocks of one path must say the same.
    """
    files: dict[str, str] = {}
    for block in (block for document in DOCUMENTS for block in blocks(document) if block.language == "yaml"):
        named = re.match(r"# (config/\w+\.yaml)$", block.text.partition("\n")[0])
        if named:
            same = yaml.safe_load(files.get(named[1], block.text)) == yaml.safe_load(block.text)
            assert same, f"{block.place}: another {named[1]} than before"
            files[named[1]] = block.text
    return files

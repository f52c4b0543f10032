"""Prose is plain English: the phrases of a translated style do not come back.

Reads the comments, docstrings and other strings of Python files, and the whole text of any other file.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = (
    "grace",
    "benchmarks",
    "config",
    "docs",
    "rules",
    "tools",
    "config.yaml",
    "Snakefile",
    "Makefile",
    "README.md",
    "CONTRIBUTING.md",
)
SUFFIXES = (".py", ".yaml", ".html", ".md", ".smk", ".rst", "Snakefile", "Makefile")

UNIT = (
    "batch|caption|class|codebook|command|epoch|file|function|GPU|identifier|image|job|key|level|line|measure|model|module|"
    "page|panel|parent|process|query|row|rule|run|scheme|second|seed|sequence|split|stage|step|system|token|weight"
)
BANNED = (
    # "a command a stage", "samples a second": one command per stage, samples per second
    rf"\b(?:an?|one) (?!such\b)(?:{UNIT}) an? (?:{UNIT})\b",
    rf"\b(?:bytes|captions|hits|images|queries|rows|samples|seconds|times|tokens|words) an? (?:{UNIT})\b",
    r"\b(?:searched|told|left out|meant) are\b",
    r"\b(?:is|are|was|be) (?:told(?! apart\b)|heard)\b",
    r"\bname somebody\b|\bnobody is named\b|\bwhoever\b|\bof strangers\b|\bof others so that\b",
    r"\bmend(?:s|ed)?\b",
    r"\bbefore the first byte\b",
    r"\b(?:go|goes|going|gone) on (?:from|with|where)\b|\bto go on\b|\brun goes on\b",
    r"\bis heard as long as\b",
    r"\b(?:anything|everything) wrong is\b|\bis one `?GraceError\b|\bis a `GraceError`",
    r"\b(?:md5|sha256|file) sums?\b|\bsums of (?:downloaded )?files\b|\bsizes? and sums?\b|\bwrong sum\b",
    r"\banew\b",
    r"\bthin call\b",
    r"\bof another form\b",
    r"\bso many\b",
    r"\bstands? (?:twice|once|beside|behind|in(?! for\b)|with)\b",
    r"\bin words\b",
    r"\blaid over\b|\blay it over\b",
    r"\bby heart\b",
    r"\blies there\b|\ba link to nothing\b",
    r"\b(?:must be|is not) a text\b",
    r"(?<!\bthere )(?<!\bthat )\bis no (?!longer\b|more\b|such\b|different\b|\w+er than\b)\w+",
    r"\bon a processor\b|\bprocessor threads\b|\ba processor core\b",
    r"\bhanded over\b|\bby way of\b",
)
BAN = re.compile("|".join(f"(?:{pattern})" for pattern in BANNED), re.IGNORECASE)


def prose(path: Path) -> str:
    """The text of a file, of Python only comments and strings; runs of whitespace and comment signs become one space."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = "".join(_pieces(text))
    return re.sub(r"[\s#]+", " ", text)


def _pieces(source: str) -> Iterator[str]:
    """Comments, and strings without their quotes, with a bar between them.

    Adjacent strings are joined, as Python does, and so are comments on adjacent lines.
    """
    strings = {getattr(tokenize, f"FSTRING_{part}", -1) for part in ("START", "MIDDLE", "END")}  # from Python 3.12 on
    before = None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield f"\n{token.string}" if before == "comment" else f" | {token.string}"
            before = "comment"
        elif token.type == tokenize.STRING or token.type in strings:
            text = re.sub(r"^[rfbRFB]*[\"']{1,3}|[\"']{1,3}$", "", token.string)
            yield text if before == "string" else f" | {text}"
            before = "string"
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            before = None


def files(places: tuple[str, ...] = PLACES) -> Iterator[Path]:
    """The files of `places` that are checked."""
    for place in places:
        path = ROOT / place
        assert path.exists(), f"{place} does not exist; remove it from PLACES"
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.name.endswith(SUFFIXES):
                yield file


def found(text: str) -> list[str]:
    """Every banned phrase of `text`, with a few words around it."""
    return [text[max(0, hit.start() - 40) : hit.end() + 40] for hit in BAN.finditer(text)]


@pytest.mark.parametrize("place", PLACES)
def test_no_banned_phrase(place: str) -> None:
    checked = list(files((place,)))
    assert checked
    problems = {file.relative_to(ROOT).as_posix(): hits for file in checked if (hits := found(prose(file)))}
    assert not problems, problems


@pytest.mark.parametrize(
    "text",
    (
        *(
            "one command a stage",
            "Searched are all photos",
            "samples a second",
            "mend them",
            "told before the first byte",
        ),
        *("a run that was killed goes on from there", "anything wrong is one GraceError", "sums of downloaded files"),
        *(
            "the state begins anew",
            "each a thin call",
            "a file of another form",
            "of so many captions",
            "id 3 stands twice",
        ),
        *("it is no trie", "refused, in words", "files of strangers", "Name somebody who writes the missing ones"),
        *("It is heard as long as one of the nearest begins so", "gone on with", "laid over it", "on a processor"),
    ),
)
def test_translated_phrases_are_found(text: str) -> None:
    assert found(text)


@pytest.mark.parametrize(
    "text",
    (
        *(
            "one command per stage",
            "resumed from step 3",
            "there is no file",
            "it is no longer needed",
            "a stand-in for a tower",
        ),
        *(
            "its sum over rows",
            "is told apart by its id",
            "recommended",
            "a row or a column",
            "is no faster than before",
        ),
    ),
)
def test_plain_english_is_not(text: str) -> None:
    assert not found(text)


def test_the_prose_of_a_python_file(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(
        'mend = ("goes on " "from here\\n")  # told\n# are: x\nso = many = f"{mend} is"\n"""one row\n  a query"""\n'
    )
    assert found(prose(file)) and "mend =" not in prose(file) and "one row a query" in prose(file)

"""README, CONTRIBUTING and docs/: every command, target, configuration key and link in them is real.

Commands are parsed by the programs themselves (the typer app, Snakemake's parser) without being run;
`tests/workflow/test_documented_runs.py` has Snakemake plan them.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from grace.system.errors import GraceError
from grace.workflow.config import Config, load
from grace.workflow.config.export import value_of
from tests.unit.documented_programs import Wrong, check
from tests.unit.documents import DOCUMENTS, ROOT, SHELL, blocks, prose, shell_lines, spans

README = ROOT / "README.md"
MOST_WORDS = 900
LANGUAGES = {SHELL, "bibtex", "csv", "python", "snakemake", "text", "yaml"}
PLACEHOLDERS = {"STAGE", "NAME", "FILE", "DIR"}
LINES = [line for document in DOCUMENTS for line in shell_lines(document)]
SPANS = sorted({span for document in DOCUMENTS for span in spans(document)})


@pytest.mark.parametrize(("place", "line"), LINES, ids=[f"{place} {line[:40]}" for place, line in LINES])
def test_every_command_is_understood_by_its_program(place, line):
    check(line)


@pytest.mark.parametrize(
    "line",
    [
        "grace serch 'a cat'",
        "grace search 'a cat' --sytem results",
        "grace search",
        "grace trie shw --trie t",
        "python -m grace table --metric results/metrics.json",
        ".venv/bin/grace plan --configfile config.yaml --gpus four",
        "snakemake --cores all --confgfile config/tiny.yaml",
        "snakemake --cores all --configfile config/tinny.yaml",
        "snakemake --profile profiles/slrm",
        "make rnu",
        "make run CNOFIG=config/tiny.yaml",
        "python tools/pin.py --write",
        "python -m benchmarks.decodings",
        "python -m pytest tests/unit/test_identifier.py",
        "pip install -r requirements/slrm.txt",
        "gracee search 'a cat'",
    ],
)
def test_a_misspelled_command_is_found(line):
    with pytest.raises(Wrong):
        check(line)


def test_the_documents_are_found_with_their_commands():
    assert len(DOCUMENTS) > 20 and len(LINES) > 50
    programs = {shlex.split(line, comments=True)[0].removeprefix(".venv/bin/") for _, line in LINES}
    assert {"grace", "snakemake", "make", "python"} <= programs


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_fence_names_a_language_that_the_tests_know(document):
    """A command in a block without a language would be checked by nobody."""
    assert {block.language for block in blocks(document)} <= LANGUAGES
    for block in blocks(document):
        if block.language == "python":
            ast.parse(block.text if not block.text.startswith(" ") else f"{{\n{block.text}\n}}")


@pytest.mark.parametrize(
    "span", [span for span in SPANS if re.match(r"(python -m )?grace \w|make \w|snakemake ", span)]
)
def test_commands_in_running_text(span):
    """They may leave out what a command requires, but name no command, option or target that does not exist."""
    if PLACEHOLDERS & set(span.split()[1:2]):
        return
    try:
        check(span)
    except Wrong as error:
        assert re.search("Missing|requires an argument", str(error)), f"`{span}`: {error}"


def test_commands_in_running_text_are_found():
    assert {"make lint", "make offline"} <= set(SPANS)
    with pytest.raises(AssertionError):
        test_commands_in_running_text("grace verfy")


KEY = re.compile(rf"((?:{'|'.join(Config.model_fields)})\.[a-z_][a-z_.0-9]*)(?::.*)?$")
"""A dotted key of the configuration, alone or with a value: `train.steps`, `train.structured.steps: 21`."""
FILES = re.compile(r"\.(json|yaml|html|smk|md|parquet|py|trec|csv)$")


def configuration_keys() -> list[str]:
    matches = (KEY.match(span) for span in SPANS if not FILES.search(span))
    return sorted({match[1] for match in matches if match})


@pytest.mark.parametrize("key", configuration_keys())
def test_every_configuration_key_exists(key):
    value_of(Config(), key)


def test_configuration_keys_are_found_and_a_wrong_one_is_not():
    assert {"train.steps", "retrieve.search", "dataset.folder.max_skipped"} <= {*configuration_keys(), "train.steps"}
    assert len(configuration_keys()) > 40
    assert KEY.match("train.stepz: 3")[1] == "train.stepz"
    with pytest.raises(GraceError):
        value_of(Config(), "train.stepz")


YAML = [block for document in DOCUMENTS for block in blocks(document) if block.language == "yaml"]


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_every_piece_of_configuration_is_valid(block, tmp_path):
    values = yaml.safe_load(block.text)
    if "lsh" in values.get("schemes", ()):  # the scheme that a tutorial adds
        values["schemes"].remove("lsh")
    shutil.copytree(ROOT / "config", tmp_path / "config")  # a file may extend one of these
    (tmp_path / "config/piece.yaml").write_text(yaml.safe_dump(values))
    load(tmp_path / "config/piece.yaml")


def test_the_readme_is_short():
    words = README.read_text(encoding="utf-8").split()
    assert len(words) <= MOST_WORDS, f"{len(words)} words"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        path, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{target}: no such file"
        assert not anchor or anchor in _anchors(file), f"{target}: no such heading"


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_wrapped(document):
    long = [line for line in prose(document).splitlines() if len(line) > 120 and not line.startswith("|")]
    assert [line for line in long if len(line.split()) > 1] == []


def test_pictures_are_small():
    pictures = sorted((ROOT / "docs" / "images").iterdir())
    assert len(pictures) >= 2
    assert {picture.name: picture.stat().st_size for picture in pictures if picture.stat().st_size >= 250_000} == {}


@pytest.mark.parametrize("name", ["scenes", "scenes_full", "flickr8k_offline"])
def test_the_reproduction_table_holds_the_kept_results(name):
    page = (ROOT / "docs/reference/reproduction.md").read_text(encoding="utf-8")
    table = page.partition(f"| {name} | you should get |\n")[2].partition("\n\n")[0]
    shown = dict(re.findall(r"^\| (\w+) \| (.*?) \|$", table, re.MULTILINE))
    rows = json.loads((ROOT / "docs/results" / f"{name}.json").read_text(encoding="utf-8"))
    assert shown == {
        row["system"]: " / ".join(f"{100 * row[key]:.1f}" for key in ("R@1", "R@5", "R@10")) for row in rows
    }


def test_the_reproduction_table_holds_the_figures_of_the_paper(shared):
    notes = (shared / "design/method.md").read_text(encoding="utf-8")
    published = re.findall(r"^\| (\w+)(?:, as in[^|]*)? \| ([\d. /]+) \| ([\d. /]+) \|$", notes, re.MULTILINE)
    page = (ROOT / "docs/reference/reproduction.md").read_text(encoding="utf-8")
    assert len(published) == 6
    for column, name in ((1, "Flickr30k 1K"), (2, "COCO 5K")):
        table = page.partition(f"| {name} | paper | here |\n")[2].partition("\n\n")[0]
        shown = re.findall(r"^\| (\w+) \| (.*?) \| not run here \|$", table, re.MULTILINE)
        assert shown == [(row[0], row[column]) for row in published]


def test_paths_of_documents_in_code_exist():
    """Docstrings, rules and configurations send people to pages; a page that moves takes them along."""
    places = [ROOT / name for name in ("Snakefile", "Makefile", "pyproject.toml", "config.yaml")]
    for folder, ending in (
        ("grace", "py"),
        ("benchmarks", "py"),
        ("tools", "py"),
        ("rules", "smk"),
        ("config", "yaml"),
        ("profiles", "yaml"),
    ):
        places += sorted((ROOT / folder).rglob(f"*.{ending}"))
    named = {
        (name, place)
        for place in places
        for name in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", place.read_text(encoding="utf-8"))
    }
    assert named
    assert sorted(f"{place.relative_to(ROOT)}: {name}" for name, place in named if not (ROOT / name).is_file()) == []

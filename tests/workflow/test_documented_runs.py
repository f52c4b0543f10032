"""Snakemake plans every run that README and docs/ describe, with the files that their readers would have by then; nothing is run.

Also held: the page of files names every output of a run, and the tutorial of a new scheme works as it is written.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from grace.workflow.config import Config
from tests.unit.documents import DOCUMENTS, ROOT, blocks, overlays, shell_lines

TUTORIAL = ROOT / "docs/tutorials/new-scheme.md"
SCHEME = "lsh"
"""The scheme that the tutorial adds."""
MADE_BY_THE_READER = ("data/openflamingo-3b/checkpoint.pt", "mine.trec", "flickr8k/dataset_flickr8k.json")
"""Files that no page shows in full: weights, a run, a data set."""
FOLDERS_OF_THE_READER = ("flickr8k/images",)


def shortened(line: str) -> list[str]:
    """The words of a documented line after `snakemake`, without options that do not change what is planned."""
    line = shlex.join(shlex.split(line, comments=True)[1:])
    return shlex.split(re.sub(r"(^| )(--cores \w+|-n|--profile \S+|--use-conda|--logger \w+)(?= |$)", "", line))


def planned(line: str, folder: Path, repository: Path = ROOT) -> subprocess.CompletedProcess:
    """The dry run of a documented line, in a folder that holds what its reader has written."""
    command = [sys.executable, "-m", "snakemake", "-n", "-p", "-s", str(repository / "Snakefile"), "--cores", "2"]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    command += shortened(line)
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=300)


def described() -> dict[str, str]:
    """{line: its place} of every line that differs in more than the options above; the tutorial's scheme has a test of its own."""
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    for document in DOCUMENTS:
        for place, line in shell_lines(document):
            line = re.sub(r"^make run CONFIG=", "snakemake --configfile ", line)
            # containers need an image: test_container.py
            elsewhere = "--unlock" in line or SCHEME in line or "apptainer" in line
            if line.startswith("snakemake ") and not elsewhere:
                found.setdefault(tuple(shortened(line)), (line, place))
    return dict(found.values())


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """The folder of somebody who has followed the pages: overlays, photos and their captions, files of public data sets."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "config", folder / "config")
    for name, text in overlays().items():
        (folder / name).write_text(text)
    captions = [block.text for block in blocks(ROOT / "docs/tutorials/own-photos.md") if block.language == "csv"]
    for file in {line.split(",")[0] for line in captions[0].splitlines()[1:]}:
        (folder / "photos" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), "navy").save(folder / "photos" / file)
    (folder / "photos/captions.csv").write_text(captions[0])
    for name in (*FOLDERS_OF_THE_READER, *(str(Path(file).parent) for file in MADE_BY_THE_READER)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for file in MADE_BY_THE_READER:
        (folder / file).write_text("{}")
    return folder


@pytest.mark.parametrize("line", described(), ids=list(described().values()))
def test_every_described_run_is_planned(reader, line):
    done = planned(line, reader)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runs_are_found_and_a_wrong_target_is_not_planned(reader):
    assert len(described()) >= 10
    assert planned("snakemake identifierz", reader).returncode != 0


def test_the_page_of_files_names_every_output(reader):
    page = (ROOT / "docs/reference/files.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([^`]+)`", page, re.MULTILINE))
    done = planned("snakemake", reader)
    outputs = {path for line in re.findall(r"^ +output: (.*)$", done.stdout, re.MULTILINE) for path in line.split(", ")}
    assert len(outputs) > 20
    config = Config()
    places = {re.sub(rf"^{config.output}/", "", path) for path in outputs}
    places = {re.sub(rf"^{config.dataset.name}(?=/)", "{dataset}", place) for place in places}
    places = {re.sub(rf"/({'|'.join(config.schemes)})/seed\d+/", "/{scheme}/seed{seed}/", place) for place in places}
    assert sorted(place for place in places if not {place, f"{place}/"} & listed) == []


def test_the_tutorial_of_a_new_scheme(tmp_path):
    """Its file, its line and its overlay, in a copy of the project: the configuration knows it, Snakemake plans its row."""
    file, line = [block.text for block in blocks(TUTORIAL) if block.language == "python"]
    project = tmp_path / "project"
    for name in ("grace", "rules", "config", "envs", "profiles"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, project)
    (project / f"grace/identifiers/{SCHEME}.py").write_text(f"{file}\n")
    registry = project / "grace/workflow/schemes.py"
    text = registry.read_text()
    registry.write_text(f"{text[: text.rindex('}')]}{line}\n}}\n")
    environment = {**os.environ, "PYTHONPATH": str(project)}
    write = [sys.executable, "-m", "grace", "config", "--write"]
    subprocess.run(write, cwd=project, env=environment, check=True, capture_output=True)
    assert SCHEME in yaml.safe_load((project / "config.yaml").read_text())["train"]
    (project / "config/try_lsh.yaml").write_text(overlays()["config/try_lsh.yaml"])
    run = next(line for _, line in shell_lines(TUTORIAL) if line.startswith("snakemake"))
    done = planned(run, project, project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"results-lsh/scenes/{SCHEME}/seed0/run.trec" in done.stdout


def test_the_scheme_of_the_tutorial_gives_every_image_an_identifier_of_its_own():
    from types import SimpleNamespace

    import numpy as np

    namespace: dict = {}
    source = next(block.text for block in blocks(TUTORIAL) if block.language == "python")
    exec(compile(source, str(TUTORIAL), "exec"), namespace)
    generator = np.random.default_rng(0)
    embeddings = np.repeat(generator.standard_normal((50, 8)), 3, axis=0)  # three images share each place

    def tokenizer(texts, **_):
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    inputs = SimpleNamespace(embeddings=embeddings, seed=0, tokenizer=tokenizer)
    made = namespace[SCHEME](inputs)
    assert list(made.image) == list(range(150)) and len(set(made.text)) == 150
    bits = [text.rpartition(" ")[0] for text in made.text]
    assert all(bits[place] == bits[place + 1] == bits[place + 2] for place in range(0, 150, 3))
    assert namespace[SCHEME](inputs).text == made.text
    assert namespace[SCHEME](SimpleNamespace(**{**vars(inputs), "seed": 1})).text != made.text


def test_the_tutorial_of_the_module(tmp_path):
    """Its Snakefile and its configuration, beside a checkout: the rules of the importer and of the module are planned."""
    page = blocks(ROOT / "docs/tutorials/module.md")
    snakefile = next(block.text for block in page if block.language == "snakemake")
    configuration = next(block.text for block in page if block.text.startswith("# config.yaml"))
    (tmp_path / "grace").symlink_to(ROOT)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/Snakefile").write_text(snakefile)
    (tmp_path / "mine/config.yaml").write_text(configuration)
    command = [sys.executable, "-m", "snakemake", "-n", "-p", "--cores", "2"]
    done = subprocess.run(command, cwd=tmp_path / "mine", text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE))
    assert plan["best"] == plan["grace_train_model"] == plan["grace_metrics"] == "1"
    assert "output: retrieval/results/scenes/atomic/seed0/model" in done.stdout

"""The command line: one command per stage, and a user's error is one line, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grace.cli import app
from grace.workflow.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]


def grace(*arguments: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess:
    """Run `python -m grace` as a user does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "grace", *map(str, arguments)]
    return subprocess.run(command, cwd=folder or ROOT, env=environment, text=True, capture_output=True, timeout=120)


def refused(done: subprocess.CompletedProcess) -> str:
    """Check that the error is one line, the last one, after what the stage was doing; return it."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    *doing, error = done.stderr.strip().splitlines()
    assert error.startswith("error: ") and all(line.endswith(" ...") for line in doing), done.stderr
    return error


@pytest.fixture
def photos(tmp_path):
    """Two real images, and a function that writes a Karpathy JSON about them and makes the data set."""
    from PIL import Image

    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (16, 16), "navy").save(images / "0.jpg")
    Image.new("RGB", (16, 16), "teal").save(images / "1.jpg")

    def make(document: dict | str, **changed: str) -> subprocess.CompletedProcess:
        text = document if isinstance(document, str) else json.dumps(document)
        (tmp_path / "photos.json").write_text(text)
        given = {"json": tmp_path / "photos.json", "images": images, "output": tmp_path / "dataset", **changed}
        return grace("dataset", "karpathy", *(part for name, value in given.items() for part in (f"--{name}", value)))

    make.folder = tmp_path
    return make


def document(*sentences: str, filename: str = "1.jpg") -> dict:
    """A Karpathy document: one train image with its caption, and one test image with the given file and captions."""

    def image(number: int, split: str, name: str, texts: tuple[str, ...]) -> dict:
        said = [{"raw": text, "sentid": 10 * number + place, "imgid": number} for place, text in enumerate(texts)]
        return {"imgid": number, "filename": name, "split": split, "sentences": said}

    return {"images": [image(0, "train", "0.jpg", ("a navy square",)), image(1, "test", filename, sentences)]}


def nothing_was_written(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} <= {"images", "photos.json"}


def test_help_lists_every_stage():
    done = grace("--help")
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert set(STAGES) <= listed


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "dataset"])
def test_every_command_explains_itself(stage):
    from typer.testing import CliRunner

    done = CliRunner().invoke(app, [stage, "--help"])
    assert done.exit_code == 0 and "--output" in done.output


def test_help_is_quick_because_it_loads_no_network_library():
    heavy = ("torch", "transformers", "pandas", "sklearn")
    code = f"import sys, grace.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_good_file_is_accepted(photos):
    done = photos(document("a teal square"))
    assert done.returncode == 0, done.stderr
    assert (photos.folder / "dataset" / "captions.parquet").is_file()


def test_a_missing_file(photos):
    line = refused(photos(document("a teal square"), json=str(photos.folder / "none.json")))
    assert "none.json" in line and nothing_was_written(photos.folder)


def test_a_truncated_json(photos):
    whole = json.dumps(document("a teal square"))
    line = refused(photos(whole[: len(whole) // 2]))
    assert "photos.json is not valid JSON" in line and nothing_was_written(photos.folder)


def test_an_image_that_is_text(photos):
    (photos.folder / "images" / "1.jpg").write_text("404: not found\n")
    line = refused(photos(document("a teal square")))
    assert "1.jpg" in line and nothing_was_written(photos.folder)


def test_a_caption_without_its_image(photos):
    line = refused(photos(document("a teal square", filename="2.jpg")))
    assert "2.jpg" in line and nothing_was_written(photos.folder)


def test_an_unknown_scheme(photos):
    assert photos(document("a teal square")).returncode == 0
    dataset, output = photos.folder / "dataset", photos.folder / "identifiers"
    folders = ("--dataset", dataset, "--tokenizer", dataset, "--embeddings", dataset, "--pseudo-queries", dataset)
    line = refused(grace("identifiers", "--scheme", "atomik", "--seed", "0", *folders, "--output", output))
    assert "atomik" in line and "did you mean 'atomic'?" in line and not output.exists()


def test_an_unknown_key_of_the_settings(tmp_path):
    line = refused(grace("dataset", "scenes", "--output", tmp_path / "out", "--settings", '{"train_image": 3}'))
    assert "did you mean 'train_images'?" in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [("dataset", "karpathy"), ("tower", "--dataset"), ("evaluat",), ("dataset", "coco"), ("trie", "--outputs", "x")],
)
def test_a_wrong_call(arguments):
    refused(grace(*arguments))


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    settings = '{"train_images": 2, "val_images": 1, "test_images": 1}'
    line = refused(grace("dataset", "scenes", "--output", tmp_path / "file" / "dataset", "--settings", settings))
    assert "file" in line


def test_a_whole_configuration_is_checked(tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {stepz: 3}\n")
    assert "did you mean 'steps'?" in refused(grace("config", "--check", tmp_path / "mine.yaml"))
    assert grace("config", "--check", ROOT / "config" / "tiny.yaml").returncode == 0

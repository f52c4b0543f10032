"""Records of what made an output: written, followed back to the sources, and held against the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grace.records.secrets import masked
from grace.records.sidecars.chain import chain
from grace.records.sidecars.recording import recorded
from grace.records.sidecars.verify import verify
from grace.system.errors import GraceError
from grace.system.files import replacing_folder, write_json
from grace.workflow.stages import STAGES


def copy_stage(results: Path) -> None:
    """A stage that makes a folder of a source."""
    with (
        recorded(
            "dataset",
            reads={"source": results.parent / "source.txt"},
            writes=[results / "dataset"],
            settings={"seed": 3},
        ),
        replacing_folder(results / "dataset", "dataset") as folder,
    ):
        (folder / "copy.txt").write_text((results.parent / "source.txt").read_text())


def count_stage(results: Path) -> None:
    """A stage that makes a file of that folder."""
    with recorded("metrics", reads={"dataset": results / "dataset"}, writes=[results / "count.json"], settings={}):
        write_json(results / "count.json", len((results / "dataset" / "copy.txt").read_text()))


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """Two stages' results below the working directory, named relative to it as the workflow does."""
    monkeypatch.chdir(tmp_path)
    Path("source.txt").write_text("twelve bytes")
    copy_stage(Path("results"))
    count_stage(Path("results"))
    return Path("results")


def test_a_record_says_of_what_how_where_and_when(results):
    record = json.loads((results / "dataset" / "provenance.json").read_text())
    assert record["stage"] == "dataset" and record["settings"] == {"seed": 3} and record["seed"] == 3
    assert set(record["outputs"]) == {".grace", "copy.txt"} and len(record["outputs"]["copy.txt"]["sha256"]) == 64
    assert record["inputs"]["source"]["sha256"] == record["outputs"]["copy.txt"]["sha256"]
    assert record["versions"]["grace"] and record["environment"]["prefix"] and record["machine"]["host"]
    assert record["started"] <= record["finished"] and record["seconds"] >= 0 and record["peak_memory_mb"] > 0


def test_the_chain_goes_back_to_the_sources(results):
    said = "\n".join(chain(results / "count.json"))
    for part in (
        "results/count.json",
        "stage metrics",
        "dataset <-",
        f"stage dataset (version {STAGES['dataset']}), seed 3",
        "source.txt (source)",
    ):
        assert part in said
    assert "stage dataset" in "\n".join(chain(results / "dataset" / "copy.txt"))  # a file of a folder that is an output
    with pytest.raises(GraceError, match=r"source.txt has no provenance record"):
        list(chain(Path("source.txt")))


def test_untouched_results_verify_and_may_be_moved(results):
    assert verify(results) == (3, [])
    (results.parent / "elsewhere").mkdir()
    results.rename("elsewhere/results")
    Path("source.txt").rename("elsewhere/source.txt")
    assert verify(Path("elsewhere/results")) == (3, [])


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (lambda r: (r / "count.json").write_text("13\n"), ["results/count.json: changed after the stage metrics"]),
        (lambda r: (r / "count.json").unlink(), ["results/count.json: missing (stage metrics wrote it)"]),
        (lambda r: (r / "dataset" / "copy.txt").write_text("other"), ["results/dataset/copy.txt: changed after"]),
        (lambda r: (r / "dataset" / "more.txt").write_text("more"), ["results/dataset/more.txt: added after"]),
        (lambda r: (r / "new.txt").write_text("new"), ["results/new.txt: no provenance record"]),
        (lambda r: Path("source.txt").write_text("other source"), ["its input source (source.txt) was changed"]),
        (lambda r: Path("source.txt").unlink(), ["its input source (source.txt) is missing"]),
    ],
)
def test_verify_names_what_is_not_as_written(results, do, said):
    do(results)
    _, problems = verify(results)
    assert len(problems) == len(said)
    for problem, part in zip(problems, said, strict=True):
        assert part in problem


def test_verify_reads_what_kept_its_size_and_time(results):
    import os

    path = results / "count.json"
    before = path.stat()
    path.write_text("13\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(verify(results)[1]) == 1


def test_verify_names_results_of_an_input_that_was_made_again(results):
    Path("source.txt").write_text("another twelve")
    copy_stage(results)
    assert ["was made again after the stage metrics read it" in problem for problem in verify(results)[1]] == [True]
    assert any("made again since" in line for line in chain(results / "count.json"))


def test_an_output_edited_by_hand_is_refused_by_the_next_stage(results):
    (results / "dataset" / "copy.txt").write_text("by hand")
    before = (results / "count.json").read_bytes()
    with pytest.raises(
        GraceError, match=r"results/dataset/copy.txt was changed after the stage dataset wrote it; delete"
    ):
        count_stage(results)
    assert (results / "count.json").read_bytes() == before and (results / "count.json.provenance.json").exists()
    (results / "dataset" / "provenance.json").unlink()  # as the message says: take it as it is
    count_stage(results)
    assert json.loads((results / "count.json").read_text()) == 7


def test_an_input_that_changes_while_it_is_read_leaves_no_record(results):
    writing = recorded("metrics", reads={"source": Path("source.txt")}, writes=[results / "count.json"], settings={})
    with pytest.raises(GraceError, match=r"source.txt was changed while being read; run the stage again"), writing:
        Path("source.txt").write_text("meanwhile")
        write_json(results / "count.json", 0)
    assert not (results / "count.json.provenance.json").exists()


def test_a_stage_that_fails_leaves_no_record_of_its_old_output(results):
    with pytest.raises(ZeroDivisionError), recorded("metrics", reads={}, writes=[results / "count.json"], settings={}):
        1 / 0  # noqa: B018
    assert not (results / "count.json.provenance.json").exists()
    assert any("no provenance record" in problem for problem in verify(results)[1])


def test_a_photo_changed_after_the_data_set_was_made_is_refused(tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "dataset"
    photos.mkdir()
    (photos / "1.jpg").write_bytes(b"one")
    with recorded("dataset", reads={}, writes=[output], settings={}) as record:
        with replacing_folder(output, "dataset") as folder:
            (folder / "images.txt").write_text("1.jpg")
        record.add("images", photos, files=["1.jpg"])
    (photos / "2.jpg").write_bytes(b"not of this data set")
    with recorded("encode", reads={"dataset": output}, writes=[], settings={}, photos_of=output):
        pass
    (photos / "1.jpg").write_bytes(b"two")
    reading = recorded("encode", reads={"dataset": output}, writes=[], settings={}, photos_of=output)
    with pytest.raises(GraceError, match=r"photo .*1.jpg was changed after the stage dataset read it"), reading:
        raise AssertionError("the stage ran on another photo")


def test_files_that_settings_name_are_inputs(tmp_path):
    (tmp_path / "given.csv").write_text("image_id,text\n")
    settings = {"source": "file", "file": str(tmp_path / "given.csv"), "pretrained": {"model": "some/hub-name"}}
    with recorded("pseudo_queries", reads={}, writes=[], settings=settings) as record:
        assert list(record.inputs) == ["file"]


def test_other_processes_of_a_distributed_run_record_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with recorded("train", reads={}, writes=[tmp_path / "model"], settings={}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_masked_in_records(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh12345678")
    settings = {"url": "https://user:pass-word@example.org/x", "note": "with hf_abcdefgh12345678 inside"}
    with recorded("metrics", reads={}, writes=[tmp_path / "out.json"], settings=settings):
        write_json(tmp_path / "out.json", 1)
    text = (tmp_path / "out.json.provenance.json").read_text()
    assert "hf_abcdefgh12345678" not in text and "pass-word" not in text and "https://***@example.org/x" in text


def test_masking_leaves_ordinary_text_alone(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "true")
    monkeypatch.setenv("PATH_OF_THINGS", "ordinary")
    assert masked({"a": ["true", "ordinary", 3, None]}) == {"a": ["true", "ordinary", 3, None]}

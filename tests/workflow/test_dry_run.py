"""The plan that Snakemake makes of a configuration, and what it says of a wrong one. Nothing is run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from grace.cli import app
from grace.system.errors import GraceError
from grace.workflow.config import load
from grace.workflow.schemes import SCHEMES
from grace.workflow.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
TINY = "config/tiny.yaml"


@pytest.fixture
def workflow(workflow_in, tmp_path):
    return workflow_in(tmp_path)


def test_the_default_plan_has_every_stage(workflow):
    schemes = yaml.safe_load((ROOT / "config.yaml").read_text())["schemes"]
    plan = workflow.planned()
    assert set(plan) == set(STAGES)
    for stage in ("identifiers", "trie", "train", "retrieve"):
        assert plan[stage] == len(schemes)
    assert plan["evaluate"] == len(schemes) + 1
    assert all(plan[stage] == 1 for stage in ("dataset", "tower", "encode", "captioner", "baseline", "report"))


@pytest.mark.parametrize("files", [(), (TINY,), ("config/scenes_full.yaml",), ("config/flickr8k_offline.yaml",)])
def test_every_command_of_a_plan_is_one_that_the_command_line_takes(workflow, files):
    """Stand-ins take any option; here the commands of a dry run are read by the command line itself, and not run."""
    done = workflow("-n", "-p", overlays=files)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = re.findall(r"-m grace (.*?) > \S+\.log 2>&1", done.stdout + done.stderr)
    assert len(commands) > 15
    for command in commands:
        taken_by_the_command_line(shlex.split(command))


def taken_by_the_command_line(words: list[str]) -> None:
    """Read a command as typer does, sub-commands too; an unknown, missing or misspelled option raises."""
    command, context = typer.main.get_command(app), None
    while True:
        context = command.make_context(words[0] if context else "grace", list(words), parent=context)
        rest = [*context._protected_args, *context.args]
        if not hasattr(command, "resolve_command") or not rest:
            return
        _, command, words = command.resolve_command(context, rest)
        words = list(words)


def test_schemes_and_seeds_multiply(workflow):
    overlay = workflow.overlay("seeds", {"schemes": ["numeric", "string", "atomic"], "seeds": [0, 5]})
    plan = workflow.planned(overlays=(overlay,))
    assert (plan["train"], plan["retrieve"], plan["evaluate"], plan["captioner"]) == (6, 6, 7, 1)


def test_everything_up_to_a_stage(workflow):
    before = {"dataset", "tokenizer", "tower", "encode", "captioner", "pseudo_queries"}
    for arguments in (["identifiers"], ["--until", "assign_identifiers"]):
        assert set(workflow.planned(*arguments)) == {*before, "identifiers"}
    plan = workflow.planned("train")
    assert set(plan) == {*before, "identifiers", "train"} and plan["train"] == 2
    assert set(workflow.planned("data")) == {"dataset"}


@pytest.mark.parametrize("target", ["", "evaluate", "results/metrics.json"])
def test_until_train_is_refused_in_words_or_planned(workflow, target):
    """Snakemake starts no job that depends on a job of the rule that --until names: structured starts from atomic."""
    done = workflow("-n", *filter(None, [target]), "--until", "train_model")
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "run `snakemake train`" in said and "BUG" not in said
    scratch = workflow.overlay("scratch", {"train": {"start_from": "scratch", "structured": {"start_from": None}}})
    assert workflow.planned(*filter(None, [target]), "--until", "train_model", overlays=(scratch,))["train"] == 2


@pytest.mark.parametrize("target", ["identifiers", "trie", "train", "retrieve", "evaluate"])
def test_a_target_is_not_taken_for_a_job(workflow, target):
    """With `--until train` or `-R train` Snakemake would say that there is nothing to do."""
    for arguments, instead in (
        (["--until", target], f"run `snakemake {target}`"),
        (["evaluate", "--until", target], f"run `snakemake {target}`"),
        (["-R", target], "run `snakemake -R "),
    ):
        done = workflow("-n", *arguments)
        assert done.returncode != 0 and instead in done.stdout + done.stderr


def test_given_pseudo_queries_need_no_captioner(workflow):
    (workflow.folder / "queries.jsonl").write_text("")
    given = {"pseudo_queries": {"source": "file", "file": "queries.jsonl"}}
    from_scratch = workflow.overlay("scratch", {**given, "train": {"start_from": "scratch"}})
    from_captioner = workflow.overlay("captioner", {**given, "train": {"start_from": "captioner"}})
    assert "captioner" not in workflow.planned(overlays=(from_scratch,))
    assert "captioner" in workflow.planned(overlays=(from_captioner,))


def test_borrowed_pseudo_queries_come_from_the_tower(workflow):
    nearest = {"pseudo_queries": {"source": "nearest"}, "train": {"start_from": "scratch"}}
    done = workflow("-n", "-p", overlays=(workflow.overlay("nearest", nearest),))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert (
        "pseudo_queries --dataset results/scenes/dataset --embeddings results/scenes/embeddings --tower results/scenes/tower"
        in said
    )
    assert "python -m grace captioner" not in said


def test_the_tower_is_read_where_it_teaches(workflow):
    """A scheme may have a weight of its own: the other scheme's training neither reads the tower nor waits for it."""
    values = {"schemes": ["numeric", "atomic"], "train": {"atomic": {"distillation": 10}}}
    done = workflow("-n", "-p", overlays=(workflow.overlay("taught", values),))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    trainings = {line.split("--scheme ")[1].split()[0]: line for line in said.splitlines() if "-m grace train " in line}
    assert set(trainings) == {"numeric", "atomic"}
    assert "--tower results/scenes/tower" in trainings["atomic"] and "--tower" not in trainings["numeric"]


def test_a_karpathy_data_set(workflow):
    (workflow.folder / "photos.json").write_text(json.dumps({"images": []}))
    (workflow.folder / "photos").mkdir()
    karpathy = {"json_file": "photos.json", "images": "photos"}
    overlay = workflow.overlay("photos", {"dataset": {"name": "photos", "source": "karpathy", "karpathy": karpathy}})
    done = workflow("-n", "-p", overlays=(overlay,))
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "python -m grace dataset karpathy --name photos --json photos.json --images photos" in said
    assert "results/photos/atomic/seed0/run.trec" in said


def test_a_public_data_set_is_downloaded_unless_its_files_are_given(workflow):
    """With a receipt, or with files given by path, there is nothing to fetch."""
    dataset = {"name": "coco", "source": "karpathy", "karpathy": {"download": "coco", "data": "here"}}
    overlay = workflow.overlay("coco", {"dataset": dataset})
    done = workflow("-n", "-p", overlays=(overlay,))
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert "python -m grace download coco --data here" in said
    assert (
        "python -m grace dataset karpathy --name coco --json here/coco/dataset_coco.json --images here/coco/images"
        in said
    )
    (workflow.folder / "photos.json").write_text("{}")
    (workflow.folder / "photos").mkdir()
    given = workflow.overlay("given", {"dataset": {"karpathy": {"json_file": "photos.json", "images": "photos"}}})
    assert "download" not in workflow.planned(overlays=(overlay, given))
    (workflow.folder / "here/coco").mkdir(parents=True)
    (workflow.folder / "here/coco/download.json").write_text("{}")
    plan = workflow.planned(overlays=(overlay,))
    assert "download" not in plan and plan["dataset"] == 1


def test_a_folder_of_photos(workflow):
    (workflow.folder / "said.csv").write_text("file,caption\n")
    (workflow.folder / "photos").mkdir()
    given = {"images": "photos", "captions": "said.csv"}
    overlay = workflow.overlay("mine", {"dataset": {"name": "mine", "source": "folder", "folder": given}})
    done = workflow("-n", "-p", overlays=(overlay,))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "python -m grace dataset folder --name mine" in done.stdout + done.stderr
    (workflow.folder / "said.csv").unlink()
    done = workflow("-n", overlays=(overlay,))
    assert done.returncode != 0
    assert "dataset.folder.captions: the table of captions 'said.csv' does not exist" in done.stdout + done.stderr


def test_a_folder_that_cannot_be_read_is_told_in_words(workflow, monkeypatch):
    """Snakemake looks at the photos before any stage runs; the words are the user's, not a way through our modules."""
    (workflow.folder / "photos" / "locked").mkdir(parents=True)
    (workflow.folder / "sitecustomize.py").write_text(
        "import os\nwalk = os.walk\n"
        "def refusing(top, onerror=None, **other):\n"
        "    if str(top).endswith('photos') and onerror:\n"
        "        onerror(PermissionError(13, 'Permission denied', f'{top}/locked'))\n"
        "    return walk(top, onerror=onerror, **other)\n"
        "os.walk = refusing\n"
    )  # root may read everything, so that the refusal is made here
    monkeypatch.setenv("PYTHONPATH", str(workflow.folder))
    given = {"name": "mine", "source": "folder", "folder": {"images": "photos", "captions": "sidecar"}}
    done = workflow("-n", overlays=(workflow.overlay("locked", {"dataset": given}),))
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "photos/locked cannot be read (Permission denied)" in said
    assert "grace/data/listing.py" not in said and "GraceError" not in said, said


def test_borrowed_pseudo_queries_are_of_val_images_too_where_these_are_used(workflow):
    values = {"pseudo_queries": {"source": "nearest"}, "train": {"validate_every": 5}}
    done = workflow("-n", "-p", "--until", "pseudo_queries", overlays=(workflow.overlay("borrowed", values),))
    assert "--val" in next(line for line in (done.stdout + done.stderr).splitlines() if "grace pseudo_queries" in line)


def test_several_processes_are_started_by_torchrun(workflow):
    overlay = workflow.overlay("processes", {"resources": {"processes": 2, "gpus": 2}})
    done = workflow("-n", "-p", overlays=(overlay,))
    said = done.stdout + done.stderr
    assert "python -m grace.training.launch --standalone --nproc-per-node 2 -m grace train" in said
    assert "python -m grace.training.launch --standalone --nproc-per-node 2 -m grace retrieve" not in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"retrieve": {"beam": 3}}, "unknown key 'retrieve.beam'; did you mean 'beams'?"),
        ({"schemes": ["atomik"]}, "schemes.0: Input should be"),
        ({"dataset": {"source": "karpathy", "karpathy": {"download": "coca"}}}, "did you mean 'coco'?"),
        ({"train": {"steps": "many"}}, "train.steps: Input should be a valid integer"),
        ({"train": {"steps": "many"}}, "/wrong.yaml"),
        ({"flamingo": {"checkpoint": "none.pt"}}, "flamingo.checkpoint: the checkpoint 'none.pt' does not exist"),
    ],
)
def test_a_wrong_configuration_is_told_in_words(workflow, values, said):
    done = workflow("-n", overlays=(workflow.overlay("wrong", values),))
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_missing_json_file_is_told_before_anything_runs(workflow):
    karpathy = {"json_file": "none.json", "images": "photos"}
    overlay = workflow.overlay("photos", {"dataset": {"name": "photos", "source": "karpathy", "karpathy": karpathy}})
    done = workflow("-n", overlays=(overlay,))
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "dataset.karpathy.json_file: the JSON file 'none.json' does not exist" in said and "Traceback" not in said


def test_what_yaml_reads_as_text_passes_the_one_validator(workflow):
    """`1e-3` is a text in YAML 1.1, and --config turns numbers into texts: the check and Snakemake agree on both."""
    overlay = workflow.folder / "text.yaml"
    overlay.write_text("train:\n  learning_rate: 1e-3\n  steps: '400'\n")
    for arguments in ((), ("--config", 'train={"steps": 300}')):
        done = workflow("-n", *arguments, "--configfile", str(overlay))
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_that_extends_another_is_given_alone(workflow):
    """The base counts below the file, and what --config sets above both, although it is the default."""
    workflow.overlay("base", {"schemes": ["numeric"], "seeds": [1, 2], "dataset": {"name": "of_the_base"}})
    preset = workflow.overlay("preset", {"extends": "base.yaml", "dataset": {"name": "of_the_file"}})
    done = workflow("-n", "-p", overlays=(preset,))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results/of_the_file/numeric/seed2" in done.stdout and "of_the_base" not in done.stdout
    assert workflow.planned("train", overlays=(preset,))["train"] == 2
    assert workflow.planned("train", "--config", "seeds=[0]", overlays=(preset,))["train"] == 1
    missing = workflow.overlay("missing", {"extends": "none.yaml"})
    done = workflow("-n", overlays=(missing,))
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "none.yaml does not exist" in said and "Traceback" not in said


def test_weights_that_are_replaced_run_what_reads_them_again(workflow):
    """Of a finished run, stood in for by files of one time."""
    (workflow.folder / "weights.pt").write_text("")
    overlay = workflow.overlay("weights", {"flamingo": {"checkpoint": "weights.pt"}, "schemes": ["numeric"]})
    done = workflow("-n", "-p", "--forceall", overlays=(overlay,))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    jobs_of = {
        rule: re.search(rf"rule {rule}:\n +input: (.*)\n", said)[1]
        for rule in ("captioner", "train_model", "encode", "tokenizer")
    }
    assert {rule for rule, read in jobs_of.items() if "weights.pt" in read} == {"captioner", "train_model"}


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(
    schemes=st.lists(st.sampled_from(sorted(SCHEMES)), min_size=1, max_size=3, unique=True), steps=st.integers(5, 100),
    start=st.sampled_from(["scratch", "captioner", None]), source=st.sampled_from(["captioner", "nearest"]),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True), output=st.sampled_from(["out", "a/b c", "r-1", "ü"]),
    gpus=st.sampled_from([0, 1, 2]), distillation=st.sampled_from([0, 2.5]), search=st.sampled_from(["beam", "exact"]),
)  # fmt: skip
def test_a_configuration_that_passes_the_check_is_planned(
    workflow, schemes, steps, start, source, name, output, gpus, distillation, search
):
    values = {
        "output": output, "schemes": schemes, "dataset": {"name": name}, "pseudo_queries": {"source": source},
        "train": {"steps": steps, "distillation": distillation, **({"start_from": start} if start else {})},
        "retrieve": {"search": search}, "resources": {"gpus": gpus, "processes": max(1, gpus)},
    }  # fmt: skip
    overlay = workflow.overlay("drawn", values)
    try:
        load(ROOT / "config.yaml", ROOT / TINY, overlay)
    except GraceError:
        assume(False)
    plan = workflow.planned(overlays=(TINY, overlay))
    assert plan["evaluate"] == len(schemes) + 1 and plan["report"] == 1

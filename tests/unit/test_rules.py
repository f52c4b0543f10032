"""The Python of rules/: the command of a stage holds what differs from the defaults, and its params are its slice."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

from grace.rules import hooks
from grace.rules.commands import Jobs, launcher, stage_command, stage_params, stage_resources
from grace.rules.inputs import beside, beside_with, karpathy_files, options, own_files, photos, stamp_of
from grace.rules.planned import how_jobs_run
from grace.rules.slices import slice_of
from grace.system.errors import GraceError
from grace.workflow.config import Atomic, Captioner, Config, Flamingo, Section, Training, load, parse_settings
from grace.workflow.schemes import SCHEMES
from grace.workflow.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
ONE_SECTION = (
    "dataset",
    "tokenizer",
    "tower",
    "encode",
    "pseudo_queries",
    "identifiers",
    "retrieve",
    "evaluate",
    "report",
)


class _Trained(Section):
    flamingo: Flamingo = Flamingo()
    training: Training = Training()
    atomic_head: Atomic = Atomic()


class _Captioned(Section):
    flamingo: Flamingo = Flamingo()
    training: Captioner = Captioner()


def said_to(params: dict, model: type[Section], scheme: str = "") -> Section:
    """What a command reads from the option that a rule gives it."""
    option = params["settings"]
    option = option(SimpleNamespace(scheme=scheme)) if callable(option) else option
    words = shlex.split(option) or ["--settings", "{}"]
    assert words[0] == "--settings" and len(words) == 2
    return parse_settings(model, words[1], "--settings")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_command_reads_what_the_configuration_says(file):
    """Through the option, which holds only differences, and back: every stage of every preset."""
    config = load(ROOT / "config.yaml", file)
    for stage in ONE_SECTION:
        wanted = slice_of(config, stage)
        assert said_to(stage_params(config, Jobs(), stage), type(wanted)) == wanted, stage
    captioner = said_to(stage_params(config, Jobs(), "captioner"), _Captioned)
    assert captioner == _Captioned(flamingo=config.flamingo, training=config.captioner)
    trained = stage_params(config, Jobs(), "train", by_scheme=True)
    for scheme in SCHEMES:
        assert said_to(trained, _Trained, scheme) == _Trained(**slice_of(config, "train", scheme)), scheme
    assert said_to(stage_params(config, Jobs(), "configuration"), Config) == config


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 10_000), rate=st.floats(1e-7, 1), own=st.none() | st.integers(1, 500),
    name=st.text("ab' \"$`{}\\;&|<>!#", min_size=0, max_size=12), beams=st.integers(1, 40),
)  # fmt: skip
def test_any_value_comes_through_the_shell(steps, rate, own, name, beams):
    config = Config(
        train={"steps": steps, "warmup_steps": 0, "learning_rate": rate, "atomic": {"steps": own}},
        retrieve={"beams": beams, "depth": max(10, beams)}, report={"title": name or "x"},
    )  # fmt: skip
    trained = stage_params(config, Jobs(), "train", by_scheme=True)
    for scheme in ("atomic", "numeric"):
        assert said_to(trained, _Trained, scheme).training == config.train.for_scheme(scheme)
    assert said_to(stage_params(config, Jobs(), "report"), type(config.report)) == config.report
    assert said_to(stage_params(config, Jobs(), "configuration"), Config) == config


def test_a_default_needs_no_option_and_is_still_part_of_what_reruns_a_stage():
    for stage in ("tokenizer", "tower", "captioner", "retrieve", "report"):
        params = stage_params(Config(), Jobs(), stage)
        assert params["settings"] == "" and len(params["slice"]) > 20 and params["stage_version"] == STAGES[stage]
    changed = stage_params(Config(retrieve={"beams": 7}), Jobs(), "retrieve")
    assert changed["settings"] == """--settings '{"beams": 7}'"""
    assert json.loads(changed["slice"])["beams"] == 7


def test_a_key_that_a_stage_does_not_read_changes_none_of_its_params():
    plain, other = Config(), Config(retrieve={"beams": 7, "depth": 20}, tower={"encode_batch": 3})
    assert stage_params(plain, Jobs(), "tower") == stage_params(other, Jobs(), "tower")
    assert stage_params(plain, Jobs(), "encode") != stage_params(other, Jobs(), "encode")
    assert stage_params(plain, Jobs(), "baseline") != stage_params(other, Jobs(), "baseline")
    beams = Config(retrieve={"beams": 7})
    assert (
        stage_params(plain, Jobs(), "baseline")
        == stage_params(beams, Jobs(), "baseline")
        != stage_params(beams, Jobs(), "retrieve")
    )
    own = stage_params(Config(train={"atomic": {"steps": 500}}), Jobs(), "train", by_scheme=True)["slice"]
    shared = stage_params(plain, Jobs(), "train", by_scheme=True)["slice"]
    assert own(SimpleNamespace(scheme="numeric")) == shared(SimpleNamespace(scheme="numeric"))
    assert own(SimpleNamespace(scheme="atomic")) != shared(SimpleNamespace(scheme="atomic"))


def test_a_command_names_its_log_and_says_how_it_ended():
    command = stage_command("trie --output {output:q}")
    assert command.endswith(
        "python -m grace trie --output {output:q} > {log:q} 2>&1 || {resources.env} python -m grace ended $? {log:q}"
    )
    assert command.startswith(
        "GRACE_WORKFLOW=$PPID GRACE_LOG={log:q} GRACE_GPUS={resources.gpu} {resources.env} python"
    )
    assert " {params.launch} -m grace train " in stage_command("train --x", launch=True)


def test_the_launcher_of_several_processes_and_ones_own():
    assert launcher(Config()) == "python"
    assert "--nproc-per-node 3" in launcher(Config(resources={"processes": 3}))
    assert launcher(Config(resources={"launcher": "deepspeed --bind"})) == "deepspeed --bind"


def test_resources_grow_with_attempts_and_hold_what_reruns_nothing():
    plain = stage_resources(Config(), Jobs(), "train", 3000)
    assert plain["mem_mb"](None, 1) == 3000 and plain["mem_mb"](None, 3) == 9000 and plain["gpu"] == 0
    assert plain["env"](None, 2) == "GRACE_ATTEMPT=2"
    fixed = Config(resources={"adapt_threads": False, "gpus": 2, "processes": 2})
    told = stage_resources(fixed, Jobs(Path("/a b")), "train", 1)
    assert told["gpu"] == 2
    assert told["env"](None, 1) == "GRACE_ATTEMPT=1 GRACE_THREADS=fixed PYTHONPATH='/a b'${PYTHONPATH:+:$PYTHONPATH}"


def test_inputs_that_are_there_become_options():
    given = {"start_from": "a b/model", "tower": []}
    assert options("start_from", "tower", "captioner")(None, given) == "--start-from 'a b/model'"


def test_folders_follow_the_output():
    output = ["pre/results/scenes/atomic/seed0/model"]
    assert beside("training_state")(None, output) == "pre/results/scenes/atomic/seed0/training_state"
    assert beside_with("_state")(None, ["pre/results/scenes/captioner"]) == "pre/results/scenes/captioner_state"


def test_downloaded_files_stand_beside_the_receipt_and_given_ones_where_they_are():
    fetched = Config(dataset={"source": "karpathy", "karpathy": {"download": "coco", "data": "here"}})
    receipt = ["pre/here/coco/download.json"]
    assert (
        karpathy_files(fetched)(None, receipt) == "--json pre/here/coco/dataset_coco.json --images pre/here/coco/images"
    )
    own = {"json_file": "a b.json", "images": "photos"}
    given = Config(dataset={"source": "karpathy", "karpathy": own})
    assert karpathy_files(given)(None, ["a b.json"]) == "--json 'a b.json' --images photos"
    assert karpathy_files(Config())(None, []) == ""


def test_ones_own_files_keep_their_place_in_a_module(tmp_path):
    (tmp_path / "weights.pt").write_text("")
    config = Config(flamingo={"checkpoint": str(tmp_path / "weights.pt")})
    found = own_files(config, "train")
    assert found == [str(tmp_path / "weights.pt")] and found[0].flags["local"]
    assert own_files(config, "tower") == []


def test_a_folder_of_photos_that_grows_is_another(tmp_path):
    (tmp_path / "photos").mkdir()
    config = Config(dataset={"source": "folder", "folder": {"images": str(tmp_path / "photos")}})
    output = [str(tmp_path / "results/mine/dataset")]
    before = photos(config)(None, output)
    (tmp_path / "photos/new.png").write_text("x")
    assert photos(config)(None, output) != before
    assert photos(Config())(None, output) == ""


def test_a_file_that_may_be_there_is_a_time_stamp(tmp_path):
    output = [str(tmp_path / "report/index.html")]
    assert stamp_of("decoding_benchmark.json")(None, output) is None
    (tmp_path / "decoding_benchmark.json").write_text("{}")
    assert (
        stamp_of("decoding_benchmark.json")(None, output) == (tmp_path / "decoding_benchmark.json").stat().st_mtime_ns
    )


class Asked:
    """Snakemake's workflow, as far as hooks look at it."""

    def __init__(self, main: bool = True, deployed: tuple[str, ...] = (), image: str = "", **asked: set[str]) -> None:
        none: dict[str, set[str]] = {"until": set(), "omit_from": set(), "forcerun": set()}
        self.modifier = SimpleNamespace(is_main_snakefile=lambda: main, global_container_img=image)
        self.dag_settings = SimpleNamespace(**{**none, **asked})
        self.deployment_settings = SimpleNamespace(deployment_method={DeploymentMethod[name] for name in deployed})


def test_a_target_is_refused_where_a_job_is_meant_and_never_in_a_module():
    for asked, said in (
        ({"until": {"train"}}, "run `snakemake train`"),
        ({"forcerun": {"train"}}, "run `snakemake -R train_model`"),
    ):
        with pytest.raises(WorkflowError, match=said):
            hooks.targets(Asked(**asked))("train", "train_model", ["model"])(None)
        assert hooks.targets(Asked(main=False, **asked))("train", "train_model", ["model"])(None) == ["model"]
    assert hooks.targets(Asked(until={"other"}))("train", "train_model", ["model"])(None) == ["model"]


def test_only_environments_of_snakemake_are_told_where_the_package_is(monkeypatch, tmp_path):
    assert how_jobs_run(Asked()) == Jobs()
    assert how_jobs_run(Asked(deployed=("CONDA",))) == Jobs(ROOT)
    monkeypatch.setattr("grace.rules.planned.grace.__file__", str(tmp_path / "site-packages/grace/__init__.py"))
    with pytest.raises(GraceError, match="install it from a checkout"):
        how_jobs_run(Asked(deployed=("CONDA",)))


def test_a_container_that_is_not_built_yet_is_refused_with_the_command_that_builds_it(tmp_path):
    image = tmp_path / "grace.sif"
    with pytest.raises(GraceError, match=f"apptainer build {image} {tmp_path / 'grace.def'}"):
        how_jobs_run(Asked(deployed=("APPTAINER",), image=str(image)))
    assert how_jobs_run(Asked(deployed=("CONDA",), image=str(image))) == Jobs(ROOT)
    importer = Asked(main=False, deployed=("APPTAINER",), image=str(image))
    assert how_jobs_run(importer).in_container  # its own jobs may run in other containers
    image.write_text("")
    assert how_jobs_run(Asked(deployed=("APPTAINER",), image=str(image))) == Jobs(ROOT, in_container=True)


def test_files_from_the_future_are_refused_with_the_command_that_helps(tmp_path):
    import time

    from grace.system.clock import retime

    made = tmp_path / "results" / "model"
    made.mkdir(parents=True)
    os.utime(made, (time.time() + 3600,) * 2)
    with pytest.raises(WorkflowError, match=rf"{made}.*python -m grace retime"):
        hooks.before_first_job(SimpleNamespace(dag=None), str(tmp_path / "results"))
    assert retime(tmp_path / "results") == [str(made)] and made.stat().st_mtime <= time.time()


def test_a_job_is_one_line_unless_commands_are_asked_for():
    asked = [SimpleNamespace(output_settings=SimpleNamespace(printshellcmds=value)) for value in (False, True)]
    assert [hooks.job_message(workflow) for workflow in asked] == ["{rule}: tail -f {log}", None]


def test_a_container_gets_the_whole_slice_and_the_number_of_snakemakes_process():
    """The copy of the package in the image may have other defaults, and the shell's parent is not Snakemake there."""
    jobs = Jobs(Path("/checkout"), in_container=True)
    params = stage_params(Config(), jobs, "retrieve")
    assert params["settings"] == f"--settings {shlex.quote(params['slice'])}"
    told = stage_resources(Config(), jobs, "train", 1)["env"](None, 2)
    assert f"GRACE_WORKFLOW={os.getpid()} " in told and "PYTHONPATH=/checkout$" in told


def test_forcing_all_is_refused_with_the_option_that_does_it():
    up_to = hooks.targets(Asked(forcerun={"all"}))
    files = up_to("train", "train_model", ["model"])
    up_to("all", "report", ["report"])
    with pytest.raises(WorkflowError, match="snakemake --forceall"):
        files(None)
    omitted = hooks.targets(Asked(omit_from={"train"}))
    omitted("train", "train_model", ["model"])
    with pytest.raises(WorkflowError, match="--omit-from train_model"):
        omitted("all", "report", ["report"])(None)

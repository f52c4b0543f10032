"""The pipeline submitted to a real Slurm of one node with fake GPUs, and what happens when its jobs are killed.

Needs root and Debian's packages of Slurm, which it installs: a throw-away machine. Run it: python -m pytest tests/slurm
It is skipped, saying why, where no Slurm can be started; with CI set that is a failure.

Most of the time is waiting: a job takes 15 to 30 seconds on two cores, most of it for the two Snakemakes inside, and the
submitting process looks after its jobs 10, 30 and 60 seconds after it has submitted some.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
START = Path(__file__).with_name("one_node_slurm.sh")
QUERIES = "queries.jsonl"
# one scheme, of steps enough to be interrupted
SMALL = {
    "schemes": ["numeric"],
    "pseudo_queries": {"source": "file", "file": QUERIES},
    "train": {"start_from": "scratch", "steps": 150, "save_every": 10, "log_every": 10},
    "resources": {"gpus": 1, "memory_mb": 1500},
    "report": {"examples": 1},
}
LOCAL = ("metrics", "resolve")  # stages that are less than a second, and run where Snakemake runs
OWN, OTHER = "results-tiny/scenes/numeric/seed0", "results-tiny/scenes/string/seed0"
# The cluster's GPUs are not real, so torch sees none: the stages are told that they see those that Slurm gave them.
FAKE_GPUS = """
import importlib.abc, importlib.util, os, sys
class Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "grace.workflow.gpus":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            module.visible_gpus = lambda: [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Hook())
"""


class Cluster:
    """Snakemake with profiles/slurm in one folder, and a look at the jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / OWN / "model"
        self.state = folder / OWN / "training_state"
        (folder / "fake_gpus").mkdir(exist_ok=True)
        (folder / "fake_gpus" / "sitecustomize.py").write_text(FAKE_GPUS)

    def start(self, *arguments: str, schemes: tuple[str, ...] = ("numeric",), **resources: int) -> subprocess.Popen:
        """Start a submitting process; `schemes` and `resources` differ from those of SMALL."""
        overlay = self.folder / "small.yaml"
        changed = {"schemes": list(schemes), "resources": {**SMALL["resources"], **resources}}
        overlay.write_text(yaml.safe_dump({**SMALL, **changed}))
        command = [sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", "--directory", str(self.folder)]
        command += ["--slurm-init-seconds-before-status-checks", "10", "--latency-wait", "10"]
        command += ["-p", "--configfile", "config/tiny.yaml", str(overlay), *arguments]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environment["PYTHONPATH"] = str(self.folder / "fake_gpus")
        with open(self.folder / "submitter.log", "w", encoding="utf-8") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def run(self, *arguments: str) -> tuple[int, str]:
        """(exit code, what was said) of a submitting process that is left alone."""
        return self.start(*arguments).wait(timeout=900), self.said()

    def said(self) -> str:
        return (self.folder / "submitter.log").read_text(encoding="utf-8")

    def train_log(self) -> str:
        """What the training said; Snakemake deletes the log before a job."""
        path = self.folder / "results-tiny/logs/scenes/numeric/seed0/train.log"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def jobs(self) -> dict[str, set[str]]:
        """{number of a running job: numbers of its GPUs}."""
        shown = subprocess.run(["scontrol", "show", "job", "-d", "-o"], text=True, capture_output=True, check=False)
        found = {}
        for line in shown.stdout.splitlines():
            if "JobState=RUNNING" in line or "JobState=SUSPENDED" in line:
                numbers = ",".join(re.findall(r"GRES=gpu\S*\(IDX:([\d,-]+)\)", line))
                found[re.search(r"JobId=(\d+)", line)[1]] = _numbers(numbers)
        return found

    def train(self, *arguments: str) -> tuple[subprocess.Popen, str]:
        """A submitting process whose job trains, and has begun; and the job."""
        submitter = self.start(*arguments, "--", f"{OWN}/model")
        wait_until("a job", self.jobs, self)
        (job,) = self.jobs()
        return submitter, job


def _numbers(text: str) -> set[str]:
    """{"0", "1", "2"} of "0-1,2"."""
    out: set[str] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        out |= {str(number) for number in range(int(first), int(last or first) + 1)}
    return out


def wait_until(what: str, condition: Callable[[], object], cluster: Cluster) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen:\n{cluster.said()[-6000:]}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    state = tmp_path_factory.mktemp("slurm")
    started = subprocess.run(
        ["bash", str(START), "start", str(state), "2"], text=True, capture_output=True, check=False
    )
    if started.returncode == 77:
        why = f"no Slurm can be started: {started.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, and {why}")
        pytest.skip(why)
    assert started.returncode == 0, started.stdout + started.stderr
    folder = tmp_path_factory.mktemp("run")
    _write_pseudo_queries(folder)
    try:
        yield Cluster(folder)
    finally:
        for job in subprocess.run(["squeue", "-h", "-o", "%i"], text=True, capture_output=True).stdout.split():
            subprocess.run(["scancel", job], check=False)
        subprocess.run(["bash", str(START), "stop", str(state)], check=True)


def _write_pseudo_queries(folder: Path) -> None:
    """A caption of each test image of config/tiny.yaml stands for what a captioner would write."""
    from grace.data.scenes import scenes
    from grace.data.tables import load_dataset
    from grace.workflow.config import Scenes

    scenes(output=folder / "drawn", settings=Scenes(train_images=60, val_images=10, test_images=30))
    names = load_dataset(folder / "drawn").gallery["image_id"]
    lines = [json.dumps({"image_id": name, "text": f"a picture number {name}"}) for name in names]
    (folder / QUERIES).write_text("\n".join(lines) + "\n")


@dataclass
class Run:
    """A submitting process that was left alone."""

    cluster: Cluster
    code: int
    said: str
    seen: list[dict[str, set[str]]]
    """{job: its GPUs} of the jobs that ran together, once a second"""


@pytest.fixture(scope="module")
def runs(cluster, tmp_path_factory) -> dict[str, Run]:
    """The whole pipeline, and beside it the first stages of another one, whose tower asks for too little memory.

    So there are two jobs at once that want a GPU.
    """
    short = Cluster(tmp_path_factory.mktemp("short"))
    _write_pseudo_queries(short.folder)
    started = {"whole": (cluster, cluster.start()), "short": (short, short.start("--until", "tower", memory_mb=450))}
    seen, deadline = [], time.monotonic() + 900
    while any(process.poll() is None for _, process in started.values()) and time.monotonic() < deadline:
        seen.append(cluster.jobs())
        time.sleep(1)
    return {name: Run(at, process.poll(), at.said(), seen) for name, (at, process) in started.items()}


@pytest.fixture(scope="module")
def undisturbed(cluster, runs) -> bytes:
    """The model that the whole pipeline trained."""
    assert runs["whole"].code == 0, runs["whole"].said[-8000:]
    return (cluster.model / "model.safetensors").read_bytes()


def test_a_job_killed_for_memory_is_submitted_again_with_more(runs):
    run = runs["short"]
    assert run.code == 0, run.said[-8000:]
    asked = re.findall(r"rule tower:.*?mem_mb=(\d+)", run.said, re.DOTALL)  # also in the log of a job that failed
    assert list(dict.fromkeys(asked)) == ["450", "900"], run.said[-8000:]
    logs = (run.cluster.folder / ".snakemake" / "slurm_logs" / "rule_tower").glob("*.log")
    killed = [log.read_text() for log in logs]
    assert any("exceeded memory limit" in text.lower() for text in killed), killed


def test_the_whole_pipeline_is_submitted(cluster, runs):
    run = runs["whole"]
    assert run.code == 0, run.said[-8000:]
    rows = json.loads((cluster.folder / "results-tiny" / "metrics.json").read_text())
    assert [row["system"] for row in rows] == ["baseline", "numeric"]
    results = cluster.folder / "results-tiny"
    records = [json.loads(path.read_text()) for path in results.rglob("*provenance.json")]
    jobs = {record["environment"]["job"] for record in records if record["stage"] not in LOCAL}
    assert None not in jobs and len(jobs) >= 11, "a stage ran outside of Slurm"


def test_a_training_has_the_gpu_that_it_asked_for(cluster, undisturbed):
    record = json.loads((cluster.model / "provenance.json").read_text())
    assert record["environment"]["gpus"] in ("0", "1")
    tower = json.loads((cluster.model.parents[2] / "tower" / "provenance.json").read_text())
    assert not tower["environment"]["gpus"], "this kind of tower is trained on the processor"


@pytest.fixture(scope="module")
def interrupted(cluster, undisturbed) -> None:
    """A submitter is killed in mid-training. Its job lives on and holds the state; a second one is refused in words."""
    submitter, job = cluster.train("-R", "train_model")
    wait_until("a first state", (cluster.state / "latest").exists, cluster)
    subprocess.run(["scontrol", "suspend", job], check=True)  # so that it outlives what follows
    submitter.send_signal(signal.SIGKILL)
    submitter.wait()
    assert set(cluster.jobs()) == {job}
    state = {path.name for path in cluster.state.iterdir()}

    assert cluster.start("--unlock").wait(timeout=120) == 0
    code, said = cluster.run("--retries", "0", "--", f"{OWN}/model")
    assert code != 0 and "another training is using" in said, said[-8000:]
    assert {path.name for path in cluster.state.iterdir()} == state

    subprocess.run(["scontrol", "resume", job], check=True)
    subprocess.run(["scancel", job], check=True)
    wait_until("the end of the job", lambda: not cluster.jobs(), cluster)


def test_a_cancelled_job_is_not_started_again_and_leaves_the_others_alone(cluster, interrupted):
    """Two trainings, one cancelled: it is one that goes on from the state that the killed submitter's job has left."""
    targets = ["--", f"{OWN}/model", f"{OTHER}/model"]
    submitter = cluster.start("--keep-going", "--retries", "1", *targets, schemes=("numeric", "string"))
    wait_until("going on", lambda: "resuming from step" in cluster.train_log(), cluster)
    (job,) = [number for number, gpus in cluster.jobs().items() if gpus]
    subprocess.run(["scontrol", "suspend", job], check=True)  # until there is the other training
    wait_until("the other training", lambda: sum(map(bool, cluster.jobs().values())) == 2, cluster)
    held = [gpus for gpus in cluster.jobs().values() if gpus]
    assert len(set.union(*held)) == sum(map(len, held)) == 2, f"a GPU is held twice: {held}"
    subprocess.run(["scontrol", "resume", job], check=True)
    subprocess.run(["scancel", job], check=True)
    assert submitter.wait(timeout=400) != 0
    said = cluster.said()
    assert (cluster.folder / OTHER / "model" / "model.safetensors").is_file(), said[-8000:]
    # Snakemake submits it once more; the stage itself refuses before it works
    assert cluster.train_log().strip() == (
        "error: this stage was cancelled and is not restarted in this run; start a new run to resume"
    )
    assert not cluster.model.exists() or (cluster.state / "latest").exists()


def test_what_was_interrupted_twice_ends_in_the_same_model(cluster, interrupted, undisturbed):
    code, said = cluster.run("--", f"{OWN}/model")
    assert code == 0, said[-8000:]
    assert "resuming from step" in cluster.train_log()
    assert (cluster.model / "model.safetensors").read_bytes() == undisturbed

"""The pipeline submitted to a real Slurm of one node with fake GPUs, and what happens when its jobs are killed.

Needs root and Debian's packages of Slurm, which it installs: a throw-away machine. Run it: python -m pytest tests/slurm
It is skipped, saying why, where no Slurm can be started; with GRACE_NO_SKIP=1 (as in .ci/run) that is a failure.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
START = Path(__file__).with_name("one_node_slurm.sh")
QUERIES = "queries.jsonl"
# two schemes that wait for nobody, so that two trainings want a GPU at once; steps enough to be interrupted
SMALL = {
    "schemes": ["numeric", "string"],
    "pseudo_queries": {"source": "file", "file": QUERIES},
    "train": {"start_from": "scratch", "steps": 300, "save_every": 20, "log_every": 20},
    "resources": {"gpus": 1, "memory_mb": 1500},
    "report": {"examples": 1},
}
OWN = "results-tiny/scenes/numeric/seed0"


class Cluster:
    """Snakemake with profiles/slurm in one folder, and a look at the jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[dict[str, set[str]]] = []  # {job: its GPUs} of the running jobs, once a second

    def start(self, *arguments: str, **resources: int) -> subprocess.Popen:
        """Start a submitting process; `resources` differ from those of SMALL."""
        overlay = self.folder / "small.yaml"
        overlay.write_text(yaml.safe_dump({**SMALL, "resources": {**SMALL["resources"], **resources}}))
        command = [sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", "--directory", str(self.folder)]
        command += ["--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10"]
        command += ["--configfile", "config/tiny.yaml", str(overlay), *arguments]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with open(self.folder / "submitter.log", "w", encoding="utf-8") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def run(self, *arguments: str, **resources: int) -> tuple[int, str]:
        """(exit code, what was said) of a submitting process that is left alone; the running jobs are watched."""
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(done,))
        watch.start()
        try:
            code = self.start(*arguments, **resources).wait(timeout=1500)
        finally:
            done.set()
            watch.join()
        return code, self.said()

    def said(self) -> str:
        return (self.folder / "submitter.log").read_text(encoding="utf-8")

    def jobs(self) -> dict[str, set[str]]:
        """{number of a running job: numbers of its GPUs}."""
        shown = subprocess.run(["scontrol", "show", "job", "-d", "-o"], text=True, capture_output=True, check=False)
        found = {}
        for line in shown.stdout.splitlines():
            if "JobState=RUNNING" in line or "JobState=SUSPENDED" in line:
                numbers = ",".join(re.findall(r"GRES=gpu\S*\(IDX:([\d,-]+)\)", line))
                found[re.search(r"JobId=(\d+)", line)[1]] = _numbers(numbers)
        return found

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(0.5):
            self.seen.append(self.jobs())


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
        if os.environ.get("GRACE_NO_SKIP"):
            pytest.fail(f"GRACE_NO_SKIP is set, and {why}")
        pytest.skip(why)
    assert started.returncode == 0, started.stdout + started.stderr
    folder = tmp_path_factory.mktemp("run")
    # the gallery's images are numbered by the drawing; a caption of each stands for what a captioner would write
    lines = [json.dumps({"image_id": name, "text": f"a picture number {name}"}) for name in _gallery(folder)]
    (folder / QUERIES).write_text("\n".join(lines) + "\n")
    try:
        yield Cluster(folder)
    finally:
        for job in subprocess.run(["squeue", "-h", "-o", "%i"], text=True, capture_output=True).stdout.split():
            subprocess.run(["scancel", job], check=False)
        subprocess.run(["bash", str(START), "stop", str(state)], check=True)


def _gallery(folder: Path) -> list[str]:
    """Ids of the test images of config/tiny.yaml."""
    from grace.config import Scenes
    from grace.data.scenes import scenes
    from grace.data.tables import load_dataset

    scenes(output=folder / "drawn", settings=Scenes(train_images=60, val_images=10, test_images=30))
    return load_dataset(folder / "drawn").gallery["image_id"].tolist()


@pytest.fixture(scope="module")
def killed_for_memory(cluster) -> tuple[int, str]:
    """The first stages, of which the tower asks for too little."""
    return cluster.run("--until", "tower", memory_mb=450)


@pytest.fixture(scope="module")
def finished(cluster, killed_for_memory) -> tuple[int, str]:
    """The whole pipeline, after the stages of `killed_for_memory`."""
    return cluster.run()


@pytest.fixture(scope="module")
def undisturbed(cluster, finished) -> dict[str, bytes]:
    assert finished[0] == 0, finished[1][-8000:]
    return {name: (cluster.folder / OWN / name).read_bytes() for name in ("model/model.safetensors", "run.trec")}


def test_a_job_killed_for_memory_is_submitted_again_with_more(cluster, killed_for_memory):
    code, said = killed_for_memory
    assert code == 0, said[-8000:]
    asked = re.findall(r"rule tower:.*?mem_mb=(\d+)", said, re.DOTALL)
    assert asked == ["450", "900"], said[-8000:]
    killed = [log.read_text() for log in (cluster.folder / ".snakemake" / "slurm_logs" / "rule_tower").glob("*.log")]
    assert any("exceeded memory limit" in text.lower() for text in killed), killed


def test_the_whole_pipeline_is_submitted(cluster, finished):
    assert finished[0] == 0, finished[1][-8000:]
    rows = json.loads((cluster.folder / "results-tiny" / "metrics.json").read_text())
    assert [row["system"] for row in rows] == ["baseline", "numeric", "string"]
    jobs = {json.loads(path.read_text())["environment"]["job"] for path in cluster.folder.rglob("*provenance.json")}
    assert None not in jobs and len(jobs) >= 15, "a stage ran outside of Slurm"


def test_two_gpu_jobs_share_no_gpu(cluster, finished):
    assert finished[0] == 0, finished[1][-8000:]
    together = [list(jobs.values()) for jobs in cluster.seen if sum(bool(gpus) for gpus in jobs.values()) > 1]
    assert together, "two GPU jobs were never seen running together"
    for held in together:
        assert len(set().union(*held)) == sum(map(len, held)), f"a GPU is held twice: {held}"
    records = [json.loads(path.read_text()) for path in cluster.folder.rglob("model/provenance.json")]
    assert len(records) == 2 and all(len(record["environment"]["gpus"].split(",")) == 1 for record in records)


def _training(cluster: Cluster) -> tuple[subprocess.Popen, str]:
    """A submitting process whose job trains, and has left a first state; and the job."""
    submitter = cluster.start("-R", "train", "--", f"{OWN}/model")
    wait_until("a first state", lambda: (cluster.folder / OWN / "training_state" / "latest").exists(), cluster)
    (job,) = cluster.jobs()
    return submitter, job


def test_a_submitter_killed_in_mid_training_loses_nothing(cluster, undisturbed):
    """Its job lives on and holds the state; a second one is refused in words; after it, training goes on from the state."""
    submitter, job = _training(cluster)
    subprocess.run(["scontrol", "suspend", job], check=True)  # so that it outlives what follows
    submitter.send_signal(signal.SIGKILL)
    submitter.wait()
    assert set(cluster.jobs()) == {job}
    state = {path.name for path in (cluster.folder / OWN / "training_state").iterdir()}

    assert cluster.start("--unlock").wait(timeout=120) == 0
    code, said = cluster.run("--retries", "0", "--", f"{OWN}/model")
    assert code != 0 and "another trainer is at work" in said, said[-8000:]
    assert {path.name for path in (cluster.folder / OWN / "training_state").iterdir()} == state

    subprocess.run(["scontrol", "resume", job], check=True)
    subprocess.run(["scancel", job], check=True)
    wait_until("the end of the job", lambda: not cluster.jobs(), cluster)
    code, said = cluster.run()
    assert code == 0, said[-8000:]
    assert "going on from step" in (cluster.folder / "results-tiny/logs/scenes/numeric/seed0/train.log").read_text()
    assert {name: (cluster.folder / OWN / name).read_bytes() for name in undisturbed} == undisturbed


def test_a_cancelled_job_ends_the_run_in_words(cluster, undisturbed):
    submitter, job = _training(cluster)
    subprocess.run(["scancel", job], check=True)
    assert submitter.wait(timeout=300) != 0
    said = cluster.said()
    assert "was cancelled and is not submitted again" in said, said[-8000:]
    assert said.count("has been submitted with SLURM jobid") == 1, said[-8000:]
    log = (cluster.folder / "results-tiny/logs/scenes/numeric/seed0/train.log").read_text()
    assert log.strip().splitlines()[-1].startswith("ended: SIGTERM: asked to end from outside: cancelled")
    code, said = cluster.run()
    assert code == 0, said[-8000:]
    assert {name: (cluster.folder / OWN / name).read_bytes() for name in undisturbed} == undisturbed

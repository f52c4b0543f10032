"""What jobs get at run time: GPUs that they do not share, memory that the model needs. The stages are stand-ins."""

from __future__ import annotations

import re

import pytest

from tests.workflow.conftest import stand_in

TINY = "config/tiny.yaml"
# A training waits for a second one to be at work beside it, for a while, and writes how many there are.
FIRST = r"""if [[ $stage == train ]]; then
  mkdir -p at_work && touch "at_work/$$"
  for _ in $(seq 20); do
    [[ $(ls at_work | wc -l) -gt 1 ]] && break
    sleep 0.1
  done
  ls at_work | wc -l >> together
  echo "${GRACE_GPUS-}" > promised
  sleep 0.3
  rm "at_work/$$"
fi
"""
TWO = {"schemes": ["numeric", "string"], "train": {"start_from": "scratch"}}


@pytest.fixture
def workflow(workflow_in, tmp_path):
    (tmp_path / "programs").mkdir()
    return workflow_in(tmp_path, stand_in(tmp_path / "programs", FIRST))


@pytest.mark.parametrize(
    ("gpus", "arguments", "at_once"),
    [(2, [], 1), (2, ["--resources", "gpu=4"], 2), (2, ["--resources", "gpu=3"], 1), (0, [], 2)],
    ids=["by default", "by a bound for two", "by a bound for one and a half", "without GPUs"],
)
def test_trainings_at_once(workflow, gpus, arguments, at_once):
    """As many as resources.gpus lets have their own GPUs, unless --resources says otherwise."""
    overlay = workflow.overlay("gpus", {**TWO, "resources": {"gpus": gpus, "processes": max(1, gpus)}})
    done = workflow("train", *arguments, overlays=(TINY, overlay), cores=8)
    assert done.returncode == 0, done.stdout + done.stderr
    together = [int(line) for line in (workflow.folder / "together").read_text().split()]
    assert len(together) == 2 and max(together) == at_once
    assert int((workflow.folder / "promised").read_text()) == gpus


def asked(text: str) -> dict[str, dict[str, int]]:
    """{rule: {resource: amount}} of a dry run."""
    found = {}
    for rule, block in re.findall(r"^(?:local)?rule (\w+):\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL):
        line = re.search(r"resources: (.*)", block)
        found[rule] = {name: int(amount) for name, amount in re.findall(r"(\w+)=(\d+)\b", line[1])} if line else {}
    return found


def test_the_3b_model_asks_for_the_memory_that_four_processes_need(workflow):
    """40 GB are four copies of the weights in fp32 alone. Nothing else asks for more than one GPU."""
    (workflow.folder / "photos.json").write_text("{}")
    (workflow.folder / "photos").mkdir(exist_ok=True)
    given = {"dataset": {"karpathy": {"json_file": "photos.json", "images": "photos"}}}
    (workflow.folder / "data/openflamingo-3b").mkdir(parents=True)
    (workflow.folder / "data/openflamingo-3b/checkpoint.pt").write_text("")
    done = workflow("-n", "-p", overlays=("config/flickr30k.yaml", workflow.overlay("given", given)), cores=8)
    assert done.returncode == 0, done.stdout + done.stderr
    found = asked(done.stdout + done.stderr)
    for rule in ("captioner", "train_model"):
        assert 40_000 < found[rule]["mem_mb"] < 60_000 and found[rule]["gpu"] == 4
    for rule in ("pseudo_queries", "retrieve_images"):
        assert 9_000 < found[rule]["mem_mb"] < 15_000 and found[rule]["gpu"] == 1
    assert found["encode"]["gpu"] == found["baseline"]["gpu"] == 1
    assert not found["tower"].get("gpu") and not found["assign_identifiers"].get("gpu")


def test_the_configuration_overrides_what_is_computed(workflow):
    overlay = workflow.overlay("memory", {"resources": {"memory_mb": 777}})
    done = workflow("-n", "-p", overlays=(TINY, overlay))
    found = asked(done.stdout + done.stderr)
    assert found["train_model"]["mem_mb"] == found["tower"]["mem_mb"] == 777 != found["assign_identifiers"]["mem_mb"]

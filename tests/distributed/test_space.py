"""The disk that a training asks for beforehand against what it writes, under ZeRO 0, 2 and 3 in both precisions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from grace.training import space
from grace.training.learner import Learner, prepare_parameters
from grace.training.parameters import count_parameters
from grace.training.space import BESIDE_NUMBERS

sys.path.insert(0, str(Path(__file__).parent))
from test_zero import LORA, launch
from worker import atomic_model, model, training

pytestmark = pytest.mark.slow
FROZEN = ("perceiver", "cross_attention")


def jobs(world: int) -> list[dict]:
    out = []
    for stage in (0, 2, 3):
        for precision in ("fp32", "bf16"):
            for name, more in (
                ("whole", {}),
                ("frozen", {"trainable": FROZEN}),
                ("lora", {"trainable": LORA}),
                ("atomic", {}),
            ):
                if world == 2 and name not in ("whole", "frozen"):
                    continue
                keys = {"zero_stage": stage, "precision": precision, "steps": 3, **more}
                job = {"name": f"{name}-{stage}-{precision}", "training": keys, "wide": True, "terminate_at": 1}
                out.append({**job, "atomic": "classes"} if name == "atomic" else job)
    return out


@pytest.mark.parametrize("world", [1, 2])
def test_a_state_is_as_large_as_was_computed(world, tmp_path) -> None:
    asked = jobs(world)
    launch(tmp_path, world, asked)
    for job in asked:
        settings = training(**job["training"])
        learner = Learner(atomic_model(True, wide=True) if job.get("atomic") else model(wide=True), "generate")
        prepare_parameters(learner.flamingo, settings, 0)
        computed = space.state(count_parameters(learner, 0), settings)
        state = tmp_path / f"{job['name']}_state" / "step2"
        written = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
        assert computed <= written < computed * (1 + BESIDE_NUMBERS), job["name"]

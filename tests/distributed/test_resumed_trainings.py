"""Trainings that end early, resume or keep states: learning rates, dropout, losses and what is on the disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grace.training.state import TrainingState

sys.path.insert(0, str(Path(__file__).parent))
from launching import STAGES, launch, losses

pytestmark = pytest.mark.slow


def test_a_loss_that_is_not_finite_and_a_full_disk_end_in_words_with_the_last_good_state(tmp_path) -> None:
    keys = {"save_every": 4, "keep_states": 2}
    launch(tmp_path, 1, [
        {"name": "whole", "training": keys},
        {"name": "poison", "training": {**keys, "log_every": 7}, "poison_at": 9},
        {"name": "full", "training": keys, "full_at": 10},
        {"name": "after", "state": "full_state", "training": keys},
    ])  # fmt: skip
    said = (tmp_path / "poison.error").read_text()
    assert "the loss is not finite at step 12" in said and said.endswith("poison_state/step8)"), said
    assert (tmp_path / "poison_state" / "latest").read_text() == "step8"
    assert {entry.name for entry in (tmp_path / "poison_state").glob("step*")} == {"step4", "step8"}
    said = (tmp_path / "full.error").read_text()
    assert "the state of step 12 cannot be written" in said and "the state of step8 is kept" in said, said
    whole, after = load_file(tmp_path / "whole.safetensors"), load_file(tmp_path / "after.safetensors")
    assert all(torch.equal(value, after[key]) for key, value in whole.items())
    assert len(losses(tmp_path, "after")) == 20


@pytest.mark.parametrize("stage", STAGES)
def test_the_logged_learning_rate_is_the_one_of_the_step(stage, tmp_path) -> None:
    """Through the warm-up, with accumulation, and after a resume exact and by weights alone."""
    keys = {"zero_stage": stage, "steps": 7, "gradient_accumulation": 2, "schedule": "linear", "learning_rate": 3e-3}
    launch(tmp_path, 1, [
        {"name": "whole", "training": keys, "rates": True},
        {"name": "broken", "state": "state", "training": keys, "terminate_at": 6, "rates": True},
        {"name": "on", "state": "state", "training": keys, "rates": True},
    ])  # fmt: skip
    wanted = [1e-3, 2e-3, 3e-3, 3e-3, 2.25e-3, 1.5e-3, 0.75e-3]
    calls = {name: json.loads((tmp_path / f"{name}.rates.json").read_text()) for name in ("whole", "broken", "on")}
    each = len(calls["whole"]) // 7  # ZeRO 2 and 3 step one group of parameters at a time
    assert calls["whole"] == pytest.approx([rate for rate in wanted for _ in range(each)])
    assert calls["broken"] + calls["on"] == calls["whole"] and calls["on"]
    for name in ("whole", "on"):
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert [line["learning_rate"] for line in lines] == calls["whole"][::each]


def test_a_training_with_dropout_and_validations_goes_on_to_the_same_best_model(tmp_path) -> None:
    """Random numbers are those of the step, and the validations of before the end count."""
    keys = {"validate_every": 3, "validate_measure": "R@5", "patience": 3, "learning_rate": 1e-2}
    launch(tmp_path, 1, [
        {"name": "whole", "training": keys, "dropout": True},
        {"name": "dry", "training": {**keys, "steps": 2}},
        {"name": "broken", "state": "state", "training": {**keys, "save_every": 4}, "terminate_at": 9, "dropout": True},
        {"name": "on", "state": "state", "training": {**keys, "save_every": 4}, "dropout": True},
    ])  # fmt: skip
    assert "ended at step 10 by SIGTERM" in (tmp_path / "broken.error").read_text()
    whole, gone_on = load_file(tmp_path / "whole.safetensors"), load_file(tmp_path / "on.safetensors")
    assert all(torch.equal(value, gone_on[name]) for name, value in whole.items())
    said = [(tmp_path / f"{name}.validation.jsonl").read_text() for name in ("whole", "on")]
    assert said[0] == said[1] and len(said[0].splitlines()) > 3
    assert losses(tmp_path, "whole")[:2] != losses(tmp_path, "dry"), "there is no dropout: this shows nothing"


def test_the_newest_states_are_kept_and_nothing_that_never_became_complete(tmp_path) -> None:
    with TrainingState(tmp_path / "state", "key") as state:
        for step in (5, 10, 15, 100, 105):
            (state.folder / f"step{step}").mkdir()
        state.declare_latest("step100")
        state.keep_newest(2)
        assert {entry.name for entry in state.folder.glob("step*")} == {"step15", "step100"}
        state.keep_newest(1)
        assert {entry.name for entry in state.folder.glob("step*")} == {"step100"} and state.latest() == "step100"

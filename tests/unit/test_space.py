"""A training asks for its disk before the first step: what it needs, what is free, and nothing is written."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from grace.identifiers.base import read_tokenizer
from grace.model.flamingo import build
from grace.plan.activations import fake_learner
from grace.plan.known import language_model_config
from grace.plan.shapes import Shape
from grace.system import files
from grace.system.errors import GraceError
from grace.system.weights import save_weights, unique_tensors
from grace.training import space, trainer
from grace.training.job import Job
from grace.training.learner import Learner, choose_trainable
from grace.training.parameters import count_parameters
from grace.training.space import BESIDE_NUMBERS, check_training_fits
from grace.training.state import TrainingState
from grace.workflow.config import Flamingo, ScratchLanguageModel, Training, load

ROOT = Path(__file__).resolve().parents[2]
TRAINING = Training(steps=100, save_every=10, keep_states=2)


@pytest.fixture
def learner(tokenizer_folder) -> Learner:
    scratch = ScratchLanguageModel(width=32, layers=2, heads=2, max_length=64)
    model = build(Flamingo(scratch=scratch, perceiver_latents=3), read_tokenizer(tokenizer_folder), 16)
    choose_trainable(model, TRAINING)
    return Learner(model, "generate")


@pytest.fixture
def free(monkeypatch) -> dict[str, int]:
    """Free bytes by a part of the path, as the file system would tell them."""
    told: dict[str, int] = {}

    def usage(path):
        return SimpleNamespace(free=next(bytes_ for part, bytes_ in told.items() if part in str(path)))

    monkeypatch.setattr(files.shutil, "disk_usage", usage)
    return told


def needed(learner: Learner, states: int, models: int, moments: int = 8) -> int:
    """By hand: fp32 weights and two moments a state, fp32 weights a model."""
    numbers = sum(value.numel() for value in learner.parameters())
    return round((states * (4 + moments) + models * 4) * numbers * (1 + BESIDE_NUMBERS))


@pytest.mark.parametrize(
    ("keys", "states", "models"),
    [
        ({}, 3, 0),
        ({"keep_states": 1}, 2, 0),
        ({"save_every": 100}, 1, 0),  # none is saved, unless the training is broken off
        ({"save_every": 60}, 2, 0),
        ({"save_every": 1}, 3, 0),
        ({"validate_every": 5}, 3, 2),
    ],
)
def test_the_room_for_all_states_that_stand_at_a_time_is_asked_for(
    learner, free, tmp_path, keys, states, models
) -> None:
    training = TRAINING.model_copy(update=keys)
    free[str(tmp_path)] = needed(learner, states, models)
    check_training_fits(learner, training, tmp_path)
    free[str(tmp_path)] -= 1
    with pytest.raises(
        GraceError, match=rf"the training \({states} state.* needs .* MB .*disk of {tmp_path}, .* MB are free"
    ):
        check_training_fits(learner, training, tmp_path)
    assert not list(tmp_path.iterdir())


def test_frozen_weights_have_no_moments(learner, free, tmp_path) -> None:
    training = TRAINING.model_copy(update={"trainable": ("perceiver",), "keep_states": 1})
    choose_trainable(learner.flamingo, training)
    numbers = sum(value.numel() for value in learner.parameters())
    trained = sum(value.numel() for value in learner.flamingo.perceiver.parameters())
    free[str(tmp_path)] = round(2 * (4 * numbers + 8 * trained) * (1 + BESIDE_NUMBERS))
    check_training_fits(learner, training, tmp_path)
    free[str(tmp_path)] -= 1
    with pytest.raises(GraceError):
        check_training_fits(learner, training, tmp_path)


def test_what_an_earlier_run_left_is_not_asked_for_again(learner, free, tmp_path) -> None:
    (tmp_path / "step10").mkdir()
    (tmp_path / "step10/state.pt").write_bytes(bytes(100_000))
    free[str(tmp_path)] = needed(learner, 3, 0) - 100_000
    check_training_fits(learner, TRAINING, tmp_path)
    free[str(tmp_path)] -= 1
    with pytest.raises(GraceError):
        check_training_fits(learner, TRAINING, tmp_path)


def test_a_model_on_another_disk_is_asked_for_there(learner, free, tmp_path, monkeypatch) -> None:
    output, state = tmp_path / "here/deep/model", tmp_path / "there"
    state.mkdir()
    (tmp_path / "here").mkdir()
    plain = Path.stat
    other = SimpleNamespace(st_dev=-1)
    monkeypatch.setattr(Path, "stat", lambda self, **kw: other if self == tmp_path / "here" else plain(self, **kw))
    monkeypatch.setattr(space, "_existing", lambda path: tmp_path / "here")
    free |= {"there": needed(learner, 3, 0), "here": 4 * sum(value.numel() for value in learner.parameters())}
    check_training_fits(learner, TRAINING, state, output)
    free["here"] -= 1
    with pytest.raises(GraceError, match=rf"the model of the training needs .*disk of {tmp_path}/here"):
        check_training_fits(learner, TRAINING, state, output)


@pytest.mark.parametrize("trainable", [("perceiver", "cross_attention", "language_model"), ("perceiver",)])
def test_the_model_is_written_while_states_stand(learner, free, tmp_path, trainable) -> None:
    """On one disk: the larger of all states at once, and all but one of them with the finished model."""
    training = TRAINING.model_copy(update={"trainable": trainable, "zero_stage": 3})
    choose_trainable(learner.flamingo, training)
    parameters = count_parameters(learner, 0)
    state, model = space.state(parameters, training), space.model_file(parameters, training)
    free[str(tmp_path)] = round(max(3 * state, 2 * state + model) * (1 + BESIDE_NUMBERS))
    (tmp_path / "state").mkdir()
    check_training_fits(learner, training, tmp_path / "state", tmp_path / "output/model")
    free[str(tmp_path)] -= 1
    with pytest.raises(GraceError):
        check_training_fits(learner, training, tmp_path / "state", tmp_path / "output/model")


def test_the_size_of_a_model_is_the_size_of_its_file(learner, tmp_path) -> None:
    save_weights(tmp_path / "model.safetensors", unique_tensors(learner.flamingo))
    written = os.path.getsize(tmp_path / "model.safetensors")
    computed = space.model_file(count_parameters(learner, 0), TRAINING)
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little") + 8
    assert written == computed + header


def test_a_training_without_room_ends_before_its_engine_is_made(learner, free, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trainer, "make_engine", lambda *_: pytest.fail("the engine was made"))
    free[str(tmp_path)] = 1000
    job = Job(
        stage="train", model=learner.flamingo, pools=[], objective="generate", seed=0, embeddings=None, words=None,
        training=TRAINING, output=tmp_path / "model", state=tmp_path / "state",
    )  # fmt: skip
    with TrainingState(job.state, job.fingerprint()) as state, pytest.raises(GraceError, match=r"0\.00 MB are free"):
        trainer.Trainer(job, state)
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"lock", "key.json"}


def test_a_state_of_the_published_3b_model() -> None:
    """From its shapes alone: bf16 weights (none under ZeRO 3), and fp32 master weights and moments."""
    config = load(ROOT / "config/flickr30k.yaml")
    training = config.train.for_scheme("structured")
    shape = Shape(1, 1, 0, 8, 3, 50_280, 256, 1024)
    with FakeTensorMode():
        made = fake_learner(config.flamingo, training, shape, language_model_config(config.flamingo))
        parameters = count_parameters(made, 0)
    sizes = {}
    for stage in (2, 3):
        settings = training.model_copy(update={"zero_stage": stage})
        sizes[stage] = space.state(parameters, settings)
        assert space.training_in_progress(parameters, settings) == 2 * sizes[stage]
    assert training.precision == "bf16" and training.keep_states == 1
    numbers = 63_019_008 + 1_311_131_648 + 881_000_496  # perceiver, language model with QK LayerNorm, cross-attention
    assert sizes == {2: 14 * numbers, 3: 12 * numbers}  # 31.6 and 27.1 GB

"""The atomic head stays fp32 when the model is trained in bf16, under ZeRO 0, 2 and 3, with one and two processes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grace.training.deepspeed_engine import learning_rate_factor, parameter_groups
from grace.training.learner import Learner, choose_trainable
from grace.training.sampler import Batches, Sampler
from grace.workflow.config import Training

sys.path.insert(0, str(Path(__file__).parent))
from test_zero import launch, losses
from worker import PAD, atomic_model, atomic_pools, embeddings, training

pytestmark = pytest.mark.slow
STAGES, WORLDS, STEPS = (0, 2, 3), (1, 2), 6
HEAD = ("atomic_head.projection.weight", "atomic_head.log_scale", "atomic_head.classes")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, Path]:
    """Every stage in bf16, uninterrupted, and interrupted and resumed, by the number of processes; with one, offloaded too."""
    folders = {}
    for world in WORLDS:
        folders[world] = tmp_path_factory.mktemp(f"world{world}")
        jobs: list[dict] = []
        for stage in STAGES:
            keys = {"precision": "bf16", "zero_stage": stage, "steps": STEPS, "gradient_accumulation": 2}
            for atomic in ("head", "classes"):
                name = f"{atomic}-{stage}"
                shared = {"atomic": atomic, "training": keys}
                jobs.append({"name": name, **shared})
                broken = {**shared, "state": f"{name}-broken"}
                jobs += [{"name": f"broken-{name}", "terminate_at": 4, **broken}, {"name": f"on-{name}", **broken}]
            jobs.append({"name": f"left-{stage}", "state": f"left-{stage}", "terminate_at": 4, **shared})
            if stage and world == 1:
                jobs.append({"name": f"offload-{stage}", "atomic": "head",
                             "training": {**keys, "optimizer_offload": "cpu"}})  # fmt: skip
        launch(folders[world], world, jobs)
    return folders


def plain(world: int, train_classes: bool, settings: Training) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses of the same training in fp32 in plain PyTorch, and the head after it."""
    learner = Learner(atomic_model(train_classes), "classify")
    choose_trainable(learner.flamingo, settings)
    optimizer = torch.optim.AdamW(parameter_groups(learner, settings), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings))
    pools, out, dealt = atomic_pools(), [], []
    for rank in range(world):
        batches = Batches(pools, "classify", 0, embeddings(), PAD, Training())
        batches.samplers = [
            Sampler(pool.samples.lengths(), pool.batch, (0, place), rank, world) for place, pool in enumerate(pools)
        ]
        dealt.append(batches)
    for step in range(settings.steps):
        for part in range(2):
            each = [learner(batches.of(2 * step + part, torch.device("cpu")))[0] for batches in dealt]
            (sum(each) / world / 2).backward()
        torch.nn.utils.clip_grad_norm_([p for p in learner.parameters() if p.requires_grad], settings.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        out.append(sum(loss.item() for loss in each) / world)
    head = learner.flamingo.atomic_head
    return out, {name: getattr(head, name.split(".")[1]) for name in HEAD[1:]} | {HEAD[0]: head.projection.weight}


def in_bf16(value: torch.Tensor) -> bool:
    return torch.equal(value, value.bfloat16().float())


@pytest.mark.parametrize("atomic", ["head", "classes"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("world", WORLDS)
def test_the_head_of_a_model_trained_in_bf16_is_fp32(runs, world, stage, atomic) -> None:
    tensors = load_file(runs[world] / f"{atomic}-{stage}.safetensors")
    assert {name: value.dtype for name, value in tensors.items() if value.dtype != torch.bfloat16} == dict.fromkeys(
        HEAD, torch.float32
    )
    start = atomic_model().atomic_head.classes
    assert not any(in_bf16(tensors[name]) for name in HEAD)
    assert torch.equal(tensors["atomic_head.classes"], start) == (atomic == "head")
    settings = training(steps=STEPS, gradient_accumulation=2)
    wanted, head = plain(world, atomic == "classes", settings)
    found = losses(runs[world], f"{atomic}-{stage}")
    assert max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < 2e-2
    assert wanted[0] - wanted[-1] > 0.1, "nothing is learned: the comparison would see nothing"
    for name in HEAD:  # AdamW steps by the sign of small gradients, which bf16 may turn: compared with the way it went
        went = (head[name] - dict(atomic_start(atomic))[name]).norm()
        assert (tensors[name] - head[name]).norm() <= 0.35 * went, name


def atomic_start(atomic: str) -> list[tuple[str, torch.Tensor]]:
    head = atomic_model(atomic == "classes").atomic_head
    return [(f"atomic_head.{name}", value) for name, value in head.state_dict().items()]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("world", WORLDS)
def test_the_first_loss_is_that_of_a_head_in_fp32_on_a_model_in_bf16(runs, world, stage) -> None:
    """Oracle: the model cast to bf16, its head left alone. A head in bf16 gives another loss."""
    settings = training(steps=1)
    found = losses(runs[world], f"head-{stage}")[0]
    said = {}
    for name in ("fp32", "bf16"):
        learner = Learner(atomic_model(), "classify")
        choose_trainable(learner.flamingo, settings)
        for key, value in learner.named_parameters():
            if "atomic_head" not in key:
                value.data = value.data.bfloat16()
        head = learner.flamingo.atomic_head
        if name == "bf16":
            for value in (*head.parameters(), *head.buffers()):
                value.data = value.data.bfloat16().float()
        each = []
        for rank in range(world):
            batches = Batches(atomic_pools(), "classify", 0, embeddings(), PAD, Training())
            batches.samplers = [
                Sampler(pool.samples.lengths(), pool.batch, (0, place), rank, world)
                for place, pool in enumerate(batches.pools)
            ]
            each.append(learner(batches.of(1, torch.device("cpu")))[0].item())  # the second of two micro-batches
        said[name] = sum(each) / world
    assert abs(found - said["fp32"]) < 1e-5 < 1e-4 < abs(found - said["bf16"])


@pytest.mark.parametrize("atomic", ["head", "classes"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("world", WORLDS)
def test_a_resumed_training_ends_with_the_same_head(runs, world, stage, atomic) -> None:
    folder, name = runs[world], f"{atomic}-{stage}"
    whole, gone_on = load_file(folder / f"{name}.safetensors"), load_file(folder / f"on-{name}.safetensors")
    assert all(torch.equal(value, gone_on[key]) for key, value in whole.items()) and set(whole) == set(gone_on)
    assert losses(folder, name) == losses(folder, f"on-{name}")


@pytest.mark.parametrize("stage", STAGES[1:])
def test_an_optimizer_in_main_memory_trains_the_same_head(runs, stage) -> None:
    found, wanted = (load_file(runs[1] / f"{name}-{stage}.safetensors") for name in ("offload", "head"))
    for name in HEAD:
        assert found[name].dtype == torch.float32 and torch.allclose(found[name], wanted[name], atol=1e-3), name


@pytest.mark.parametrize("stage", STAGES)
def test_another_number_of_processes_goes_on_with_the_head_of_the_state(runs, stage, tmp_path) -> None:
    shutil.copytree(runs[2] / f"left-{stage}", tmp_path / "state")
    keys = {"precision": "bf16", "zero_stage": stage, "steps": 3, "gradient_accumulation": 2, "resume": "weights"}
    job = {"name": "on", "state": "state", "atomic": "classes", "training": {**keys, "learning_rate": 1e-12}}
    launch(tmp_path, 1, [job])
    assert json.loads((tmp_path / "on.jsonl").read_text().splitlines()[-1])["step"] == 3
    found = load_file(tmp_path / "on.safetensors")  # after no step, or one that moves nothing
    before = dict(atomic_start("classes"))
    for name in HEAD:
        assert found[name].dtype == torch.float32 and not in_bf16(found[name])
        assert (found[name] - before[name]).abs().max() > 1e-3, "the head of the state is not the one that began"

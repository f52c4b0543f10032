"""What `grace plan` tells, against what can be counted another way: live bytes, operations, parameters, the known 3B."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from grace.model.flamingo import build
from grace.plan.activations import count
from grace.plan.flops import computed_flops, forward_flops, step_flops
from grace.plan.lengths import Lengths, levels
from grace.plan.memory import memory
from grace.plan.shapes import Shape, Words, batches
from grace.plan.stage import Machine, largest, plan
from grace.plan.tracker import LiveBytes
from grace.system.errors import GraceError
from grace.training.learner import Learner, choose_trainable
from grace.training.model_in_training import ModelInTraining
from grace.training.parameters import Parameters, count_parameters
from grace.workflow.config import Config, Flamingo, Scenes, Training, load

ROOT = Path(__file__).resolve().parents[2]
SHAPE = Shape(
    memorize=2, retrieve=5, pseudo=1, length=14, supervised=4, vocabulary=90, visual_tokens=6, visual_width=16
)


def settings(architecture: str = "opt") -> Flamingo:
    scratch = {"architecture": architecture, "width": 32, "layers": 4, "heads": 4}
    return Flamingo(scratch=scratch, perceiver_latents=3, perceiver_depth=2, cross_attention_heads=2)


def learner(architecture: str = "opt", training: Training | None = None) -> Learner:
    training = training or Training()
    model = build(settings(architecture), Words(SHAPE.vocabulary), SHAPE.visual_width)
    choose_trainable(model, training)
    return Learner(model, "generate", training.loss_chunk)


def test_live_bytes_are_those_of_storages_once_and_until_they_go() -> None:
    x = torch.ones(10, 10)
    with LiveBytes() as live:
        a = x + 1
        b = a.view(100)[:50]
        assert live.live == 400
        del a
        assert live.live == 400, "a view keeps its storage alive"
        del b
        assert (live.live, live.peak) == (0, 400)
        live.reset_peak()
        live.add(x)
        live.add(x[0])
        assert live.peak == 400


@pytest.mark.parametrize("architecture", ["opt", "llama", "mpt"])
@pytest.mark.parametrize("keys", [{}, {"activation_checkpointing": True, "loss_chunk": 3}], ids=["plain", "cheap"])
def test_what_is_counted_without_memory_is_what_real_tensors_take(architecture, keys) -> None:
    training = Training(**keys)
    counted = count(settings(architecture), training, SHAPE)
    module = learner(architecture, training)
    dealt = [batch.to(torch.device("cpu")) for batch in batches(SHAPE)]
    for batch in dealt:
        batch.attention_mask[0, -1] = 0  # a mask with padding, as most have
    with ModelInTraining(module.flamingo, training).recomputed(), LiveBytes() as live:
        for parameter in module.parameters():
            live.add(parameter)
        own = live.live
        loss, _ = module(dealt)
        forward = live.live - own
        loss.backward()
        del loss
        peak, gradients = live.peak - own, live.live - own
    assert counted.forward == pytest.approx(forward, rel=0.01)
    assert counted.peak(1) == pytest.approx(peak, rel=0.01)
    held = sum(p.grad.untyped_storage().nbytes() for p in module.parameters() if p.grad is not None)
    assert counted.gradients == held <= gradients
    assert counted.peak(0) <= counted.peak(0.5) <= counted.peak(1)


@pytest.mark.parametrize("architecture", ["opt", "llama", "mpt"])
def test_the_formula_of_operations_is_what_the_counter_of_torch_sees(architecture) -> None:
    module = learner(architecture)
    dealt = batches(SHAPE)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        loss, _ = module(dealt)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        loss.backward()
    told = forward_flops(module.flamingo, SHAPE)
    # Llama's rotary angles are a product too, once a batch: half a head's width times the places.
    angles = 2 * 4 * (SHAPE.memorize_length + 2 * SHAPE.length) if architecture == "llama" else 0
    assert sum(told.values()) + angles == forward.get_total_flops()
    # No gradient flows into the visual tokens: the first product of the perceiver has one product less, a fraction of a percent.
    assert step_flops(told) - sum(told.values()) == pytest.approx(backward.get_total_flops(), rel=0.02)


def test_checkpointing_computes_all_but_the_head_once_more() -> None:
    training = Training(activation_checkpointing=True)
    module = learner(training=training)
    recomputed = ModelInTraining(module.flamingo, training).recomputed()
    with recomputed, sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as whole:
        module(batches(SHAPE))[0].backward()
    told = computed_flops(forward_flops(module.flamingo, SHAPE), checkpointing=True)
    assert told == pytest.approx(whole.get_total_flops(), rel=0.05)


def test_parameters_by_part_and_trained() -> None:
    module = learner(training=Training(trainable=("perceiver", "cross_attention")))
    found = count_parameters(module, tower=7)
    assert found.total["vision"] == 7 and found.trained_of["vision"] == 0
    assert found.in_training == sum(p.numel() for p in module.parameters())
    assert found.trained == sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert found.trained_of["language_model"] == 0 < found.total["language_model"]
    assert sum(found.groups) == found.trained


def test_memory_of_the_stages_by_hand() -> None:
    """A model of 100 parameters, 80 of them trained, on four GPUs: the bytes of ZeRO's paper (Rajbhandari et al. 2020)."""
    from grace.plan.activations import Counted

    parameters = Parameters(
        {"vision": 1000, "perceiver": 20, "language_model": 80}, {"language_model": 80}, (30, 50), 40
    )
    counted = Counted(forward=600, gradients=160, timeline=((0, 700), (160, 300)))
    bf16, fp32 = Training(precision="bf16"), Training()
    found = {stage: memory(parameters, counted, bf16, stage, 4) for stage in (1, 2, 3)}
    assert [m.weights for m in found.values()] == [200, 200, 50]
    assert [m.gradients for m in found.values()] == [160, 40, 40]
    assert [m.optimizer for m in found.values()] == [240, 240, 240]
    assert found[2].activations == 700
    cpu = memory(parameters, counted, fp32, 0, 1, gpu=False)
    assert (cpu.weights, cpu.gradients, cpu.optimizer) == (400, 320, 640)
    assert cpu.backward == 400 + 640 + 700
    assert cpu.step == 400 + 640 + 320 + 320
    more = memory(parameters, counted, Training(gradient_accumulation=2), 0, 1, gpu=False)
    assert more.backward == 400 + 640 + 700 + 320
    away = memory(parameters, counted, bf16, 2, 4, offload=True)
    assert away.optimizer == 0 and away.host == 20 * (12 + 4 + 2) and away.peak < found[2].peak
    with pytest.raises(ValueError):
        memory(parameters, counted, bf16, 0, 1)


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    training = Training()
    with FakeTensorMode():
        parameters = count_parameters(_fake(training), 0)
    of, more = (
        memory(parameters, count(settings(), training, shape), training, 0, 1) for shape in (SHAPE, SHAPE.times(2))
    )
    room = of.backward + 3 * (more.backward - of.backward)
    samples = largest(of, more, SHAPE, room)
    assert samples == pytest.approx(4 * SHAPE.samples, abs=1)
    for factor, fits in ((samples / SHAPE.samples, True), (samples / SHAPE.samples + 0.5, False)):
        shape = SHAPE.times(factor)
        needed = memory(parameters, count(settings(), training, shape), training, 0, 1).backward
        assert (needed <= room * 1.01) == fits
    assert largest(of, more, SHAPE, of.step - 1) == 0


def _fake(training: Training):
    from grace.plan.activations import fake_learner

    return fake_learner(settings(), training, SHAPE, None)


def test_the_default_configuration() -> None:
    found = plan(Config(), Machine(gpus=1, gpu_memory=80, peak_tflops=1, utilisation=0.5, reserve=0.1))
    assert found["images"] == 2600
    assert [job["name"] for job in found["jobs"]] == ["captioner", "atomic", "structured"]
    for job in found["jobs"]:
        work = job["model_flops_per_step"] * job["samples_per_second"] / job["samples_per_step"]
        assert work == pytest.approx(0.5e12)
        assert job["hours"] * 3600 * job["samples_per_second"] == pytest.approx(job["steps"] * job["samples_per_step"])
    assert found["disk"]["visual tokens (f16)"] == 2600 * 9 * 128 * 2
    assert found["configured"]["samples"] == 128
    json.dumps(found)


def test_structured_levels() -> None:
    assert levels(500, 50, 64) == 1
    assert levels(31_014, 30, 30) == 3
    assert levels(30 * 30 * 30, 30, 30) == 2
    assert levels(10, 30, 30) == 1


def test_files_are_laid_over_each_other(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("train: {steps: 70, learning_rate: 0.5}\nseeds: [1, 2]\n")
    (tmp_path / "b.yaml").write_text("train: {steps: 90}\nseeds: [3]\n")
    found = load(tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert (found.train.steps, found.train.learning_rate, found.seeds) == (90, 0.5, (3,))
    (tmp_path / "c.yaml").write_text("train: {stepz: 9}\n")
    for name, said in (("c.yaml", "did you mean 'steps'"), ("none.yaml", "does not exist")):
        with pytest.raises(GraceError, match=said):
            load(tmp_path / name)


def test_images_that_nobody_knows_are_asked_for(tmp_path) -> None:
    config = Config(output=str(tmp_path), dataset={"source": "folder", "folder": {"images": "photos"}})
    machine = Machine(1, 80, 1, 0.5, 0.1)
    with pytest.raises(GraceError, match="--images"):
        plan(config, machine)
    assert plan(config, machine, known_images=50)["images"] == 50


@contextlib.contextmanager
def no_network(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("the plan asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield


@pytest.mark.slow
def test_openflamingo_3b_on_four_gpus_offline(monkeypatch) -> None:
    with no_network(monkeypatch):
        short = Lengths(mean=20, longest=24, memorize=14, supervised=6, identifier_tokens=0, source="test")
        config = load(ROOT / "config" / "flickr30k.yaml")
        found = plan(config, Machine(gpus=4, gpu_memory=80, peak_tflops=312, utilisation=0.4, reserve=0.1), given=short)
    total = found["parameters"]["total"]
    assert total == {
        "vision": 303_966_208,
        "perceiver": 63_019_008,
        "language_model": 1_311_033_344 + 98_304,
        "cross_attention": 881_000_496,
    }
    assert found["trained"] == 2_255_052_848 + 98_304
    assert found["images"] == 31_014
    by_stage = {(row["zero_stage"], row["offload"]): row for row in found["memory"]}
    assert by_stage[3, False]["weights"] == pytest.approx(2 * found["trained"] / 4, abs=2)
    assert by_stage[2, False]["optimizer"] == pytest.approx(12 * found["trained"] / 4, abs=2)
    peaks = [by_stage[stage, False]["peak"] for stage in (1, 2, 3)]
    assert peaks == sorted(peaks, reverse=True)
    assert by_stage[3, True]["peak"] < by_stage[3, False]["peak"]


def test_scenes_of_another_size_change_the_disk() -> None:
    config = Config(dataset={"scenes": Scenes(train_images=100, val_images=10, test_images=10).model_dump()})
    found = plan(config, Machine(1, 80, 1, 0.5, 0.1))
    assert found["disk"]["visual tokens (f16)"] == 120 * 9 * 128 * 2


def test_utilisation_is_model_operations_over_time_and_peak() -> None:
    from benchmarks.training.gpu import utilisation

    assert utilisation({"head": 10**12, "perceiver": 10**12}, seconds=2.0, peak_tflops=10) == pytest.approx(0.3)

"""The command `plan` without its command line: from a configuration to a dictionary of figures.

python -m grace plan --configfile config/flickr30k.yaml --gpus 4 --gpu-memory 80
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from grace.plan.activations import Counted, count, fake_learner
from grace.plan.disk import disk
from grace.plan.flops import computed_flops, forward_flops, step_flops
from grace.plan.host import host_memory
from grace.plan.known import images, language_model_config, tower_shape, words
from grace.plan.lengths import Lengths, lengths
from grace.plan.memory import Memory, memory
from grace.plan.shapes import Shape
from grace.system.errors import GraceError
from grace.training.deepspeed_engine import effective_stage
from grace.training.parameters import Parameters, count_parameters
from grace.workflow.config import Config, Training

GIB = 2**30
# (ZeRO stage, optimizer on the host)
STAGES = ((0, False), (1, False), (1, True), (2, False), (2, True), (3, False), (3, True))


@dataclass(frozen=True)
class Machine:
    gpus: int
    gpu_memory: float  # GiB per GPU
    peak_tflops: float  # per GPU, dense, in the precision of training
    utilisation: float  # share of that peak that model operations reach
    reserve: float  # share of the memory left to the runtime and to fragmentation


def plan(
    config: Config, machine: Machine, known_images: int | None = None, given: Lengths | None = None
) -> dict[str, Any]:
    """Everything that `grace.plan.show` prints, as plain values; bytes, seconds, counts.

    `known_images`: number of images, if neither configuration nor data tell. `given`: lengths to use instead of the data's.
    """
    counts = images(config)
    total = known_images or (sum(counts) if counts else 0)
    if not total:
        raise GraceError("plan: the number of images is not known before the data set is made; pass --images N")
    # the training with the largest step
    training = max(
        (config.train.for_scheme(scheme) for scheme in config.schemes),
        key=lambda t: t.memorize_batch + t.retrieve_batch,
    )
    tower = tower_shape(config.tower)
    said = given or lengths(config, total)
    vocabulary = words(config.flamingo) + said.identifier_tokens
    shape = _shape(training, said.longest, said, vocabulary, tower)
    model_config = language_model_config(config.flamingo)
    with FakeTensorMode():
        learner = fake_learner(config.flamingo, training, shape, model_config)
        parameters = count_parameters(learner, tower.parameters)
        jobs = _jobs(config, learner.flamingo, said, vocabulary, tower, machine)
    once = count(config.flamingo, training, shape, model_config)
    twice = count(config.flamingo, training, shape.times(2), model_config)
    return {
        "parameters": {"total": parameters.total, "trained": parameters.trained_of},
        "in_training": parameters.in_training,
        "trained": parameters.trained,
        "lengths": asdict(said),
        "images": total,
        "machine": asdict(machine),
        "precision": training.precision,
        "configured": {
            "zero_stage": effective_stage(training),
            "offload": training.optimizer_offload == "cpu",
            "samples": shape.samples,
        },
        "memory": [
            _row(parameters, once, twice, training, shape, stage, offload, machine)
            for stage, offload in STAGES
            if not (stage == 0 and training.precision == "bf16")
        ],
        "jobs": jobs,
        "hours": sum(job["hours"] for job in jobs),
        "main_memory_mb": host_memory(config),
        "disk": disk(config, tower, total, parameters, len(config.schemes) * len(config.seeds)),
    }


def _shape(training: Training, length: int, said: Lengths, vocabulary: int, tower: Any) -> Shape:
    pseudo = training.pseudo_batch
    return Shape(
        memorize=training.memorize_batch, retrieve=training.retrieve_batch - pseudo, pseudo=pseudo, length=length,
        supervised=said.supervised, vocabulary=vocabulary, visual_tokens=tower.tokens, visual_width=tower.width,
        memorize_length=said.memorize,
    )  # fmt: skip


def _row(
    parameters: Parameters, once: Counted, twice: Counted, training: Training, shape: Shape, stage: int, offload: bool,
    machine: Machine,
) -> dict[str, Any]:  # fmt: skip
    """One ZeRO stage: the configured micro-batch, and the largest with the same mix that fits."""
    of, more = (memory(parameters, c, training, stage, machine.gpus, offload) for c in (once, twice))
    room = machine.gpu_memory * GIB * (1 - machine.reserve)
    return {**asdict(of), "peak": of.peak, "fits": of.peak <= room, "micro_batch": largest(of, more, shape, room)}


def largest(of: Memory, more: Memory, shape: Shape, room: float) -> int:
    """The most samples whose step fits into `room` bytes, as activations grow linearly with the samples. 0: none."""
    if of.step > room:
        return 0
    each = (more.backward - of.backward) / (shape.times(2).samples - shape.samples)
    return max(0, int(shape.samples + (room - of.backward) / each)) if each > 0 else shape.samples


def _jobs(config: Config, model: Any, said: Lengths, vocabulary: int, tower: Any, machine: Machine) -> list[dict]:
    """Every training of the configuration: model operations per step, samples per second, hours."""
    wanted: list[tuple[str, Training, int]] = []
    if config.captioner_is_read:
        wanted.append(("captioner", config.captioner, 1))
    wanted += [(scheme, config.train.for_scheme(scheme), len(config.seeds)) for scheme in config.schemes]
    return [_job(name, training, times, model, said, vocabulary, tower, machine) for name, training, times in wanted]


def _job(name, training, times, model, said, vocabulary, tower, machine) -> dict[str, Any]:
    shape = _shape(training, said.mean, said, vocabulary, tower)
    if name == "captioner":  # every sample has its own image, and the whole caption is supervised
        only = {"memorize": shape.retrieve, "retrieve": 0, "pseudo": 0}
        shape = Shape(**{**vars(shape), **only, "memorize_length": said.mean, "supervised": said.mean})
    forward = forward_flops(model, shape, training.share_images)
    work = step_flops(forward) * training.gradient_accumulation
    seconds = work / (machine.peak_tflops * 1e12 * machine.utilisation)
    samples = shape.samples * training.gradient_accumulation * machine.gpus
    return {
        "name": name,
        "steps": training.steps,
        "trainings": times,
        "samples_per_step": samples,
        "model_flops_per_step": work * machine.gpus,
        "computed_flops_per_step": computed_flops(forward, training.activation_checkpointing)
        * training.gradient_accumulation
        * machine.gpus,
        "samples_per_second": samples / seconds,
        "hours": times * training.steps * seconds / 3600,
    }

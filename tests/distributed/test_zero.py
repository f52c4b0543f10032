"""ZeRO 0, 2 and 3 with one and two processes against a plain PyTorch loop; how a training is interrupted and resumed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grace.system.errors import GraceError
from grace.system.weights import load_weights, unique_tensors
from grace.training.deepspeed_engine import learning_rate_factor, parameter_groups
from grace.training.learner import Learner, prepare_parameters
from grace.training.resume import load_weights_of
from grace.training.sampler import Batches, Sampler
from grace.training.state import TrainingState
from grace.workflow.config import Training

sys.path.insert(0, str(Path(__file__).parent))
from worker import PAD, embeddings, model, pools, taught, training
from worker import validation as worker_validation

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STAGES, WORLDS, SHORT = (0, 2, 3), (1, 2), 5
LORA = ("perceiver", "cross_attention", "lora")


def launch(folder: Path, world: int, jobs: list[dict], name: str = "jobs") -> str:
    """Run jobs, one after the other, in `world` processes; what they said."""
    file = folder / f"{name}{world}.json"
    file.write_text(json.dumps([{"output": str(folder), **job} for job in jobs]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command = command if world > 1 else [sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(ROOT / "tests/distributed/worker.py"), str(file)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(folder: Path, name: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, Path]:
    """Every stage and precision, uninterrupted, and interrupted at step 3 and resumed, by the number of processes."""
    folders = {}
    for world in WORLDS:
        folders[world] = tmp_path_factory.mktemp(f"world{world}")
        jobs: list[dict] = []
        for stage in STAGES:
            keys = {"zero_stage": stage}
            cheap = {
                "activation_checkpointing": True,
                "loss_chunk": 5,
                "share_images": True,
                "gradient_accumulation": 2,
            }
            for precision in ("fp32", "bf16"):
                name, exact = f"{precision}-{stage}", {**keys, "precision": precision, "steps": SHORT}
                jobs.append({"name": name, "training": {**exact, "steps": 20}})
                if world == 2 and precision == "bf16":
                    continue  # a minute that shows nothing new
                shared = {"state": f"{name}-broken", "training": exact}
                broken = {"terminate_at": 2, "terminate_rank": world - 1, **shared}
                jobs += [{"name": f"whole-{name}", "training": exact}, {"name": f"broken-{name}", **broken}]
                jobs.append({"name": f"on-{name}", **shared})
            jobs.append({"name": f"cheap-{stage}", "training": {**keys, **cheap, "steps": SHORT}})
            jobs.append({"name": f"taught-{stage}", "training": {**keys, **cheap, "steps": SHORT, "distillation": 2}})
            lora = {"trainable": LORA, "steps": SHORT}
            jobs.append({"name": f"lora-{stage}", "training": {**keys, **lora}})
            val = {"validate_every": 2, "validate_measure": "R@10", "steps": 9}
            jobs.append({"name": f"val-{stage}", "training": {**keys, **val}})
            if stage:
                offload = {"optimizer_offload": "cpu", "steps": SHORT}
                jobs.append({"name": f"offload-{stage}", "training": {**keys, **offload}})
            left = {"state": f"left-{stage}", "training": {**keys, "steps": SHORT}, "terminate_at": 2}
            jobs.append({"name": f"left-{stage}", **left})
        launch(folders[world], world, jobs)
    return folders


def plain_losses(world: int, settings: Training) -> list[float]:
    """The same training in plain PyTorch: the mean of the gradients over the processes' batches and micro-batches."""
    guide, given = taught() if settings.distillation else (None, pools())
    learner = Learner(model(), "generate", 0, guide)
    prepare_parameters(learner.flamingo, settings, 0)
    optimizer = torch.optim.AdamW(parameter_groups(learner, settings), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings))
    dealt = []
    for rank in range(world):
        batches = Batches(given, "generate", 0, embeddings(), PAD, Training())
        batches.samplers = [
            Sampler(pool.samples.lengths(), pool.batch, (0, place), rank, world) for place, pool in enumerate(given)
        ]
        dealt.append(batches)
    out = []
    for step in range(settings.steps):
        parts = settings.gradient_accumulation
        for part in range(parts):
            each = [learner(batches.of(step * parts + part, torch.device("cpu")))[0] for batches in dealt]
            (sum(each) / world / parts).backward()
        torch.nn.utils.clip_grad_norm_([p for p in learner.parameters() if p.requires_grad], settings.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        out.append(sum(loss.item() for loss in each) / world)
    return out


@pytest.mark.parametrize("world", WORLDS)
def test_every_stage_trains_as_a_plain_loop_does(runs, world) -> None:
    plain = plain_losses(world, training())
    assert plain[0] - plain[-1] > 0.5, "the loop learns nothing: the comparison would see nothing"
    assert world == 1 or abs(plain[0] - plain_losses(1, training(steps=1))[0]) > 2e-4, "both ranks have the same data"
    for stage in STAGES:
        for precision, tolerance in (("fp32", 1e-4), ("bf16", 2e-2)):
            found = losses(runs[world], f"{precision}-{stage}")
            assert len(found) == 20
            assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) < tolerance, (stage, precision)


@pytest.mark.parametrize("world", WORLDS)
def test_every_saving_at_once_trains_as_a_plain_loop_does(runs, world) -> None:
    """Activation checkpointing, chunked loss, shared images and accumulation, under every stage."""
    plain = plain_losses(world, training(steps=SHORT, gradient_accumulation=2))
    for stage in STAGES:
        found = losses(runs[world], f"cheap-{stage}")
        assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) < 1e-4, stage


@pytest.mark.parametrize("world", WORLDS)
def test_a_teacher_is_heard_as_in_a_plain_loop(runs, world) -> None:
    """With every saving at once: the tower's targets are of the same positions wherever the logits come in chunks."""
    keys = {"steps": SHORT, "gradient_accumulation": 2}
    plain = plain_losses(world, training(**keys, distillation=2))
    assert plain[0] - plain_losses(world, training(**keys))[0] > 0.1, "the teacher says nothing"
    for stage in STAGES:
        found = losses(runs[world], f"taught-{stage}")
        assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) < 1e-4, stage


@pytest.mark.parametrize("world", WORLDS)
def test_adapters_train_as_in_a_plain_loop_and_are_merged(runs, world) -> None:
    plain = plain_losses(world, training(steps=SHORT, trainable=LORA))
    other = plain_losses(world, training(steps=SHORT, trainable=("perceiver", "cross_attention")))
    assert abs(plain[-1] - other[-1]) > 1e-3, "the adapters do nothing"
    names, start = set(unique_tensors(model())), unique_tensors(model())
    for stage in STAGES:
        found = losses(runs[world], f"lora-{stage}")
        assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) < 1e-4, stage
        tensors = load_file(runs[world] / f"lora-{stage}.safetensors")
        assert set(tensors) == names, stage
        layer = "lang_encoder.model.decoder.layers.0.decoder_layer.self_attn.q_proj.weight"
        assert not torch.allclose(tensors[layer], start[layer], atol=1e-5), "the adapters are not merged"


@pytest.mark.parametrize("world", WORLDS)
def test_an_optimizer_in_main_memory_trains_as_a_plain_loop_does(runs, world) -> None:
    plain = plain_losses(world, training(steps=SHORT))
    for stage in STAGES[1:]:
        found = losses(runs[world], f"offload-{stage}")
        assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) < 1e-4, stage


def test_a_state_goes_on_with_its_optimizer_in_main_memory(runs, tmp_path) -> None:
    jobs = []
    for stage in STAGES[1:]:
        shutil.copytree(runs[1] / f"left-{stage}", tmp_path / f"state-{stage}")
        keys = {"zero_stage": stage, "steps": SHORT, "optimizer_offload": "cpu"}
        jobs.append({"name": f"on-{stage}", "state": f"state-{stage}", "training": keys})
    assert launch(tmp_path, 1, jobs).count("resuming from step 3") == 2
    for stage in STAGES[1:]:
        found, whole = losses(tmp_path, f"on-{stage}"), losses(runs[1], f"whole-fp32-{stage}")
        assert max(abs(a - b) for a, b in zip(found, whole, strict=True)) < 1e-5


@pytest.mark.parametrize("world", WORLDS)
def test_a_validation_disturbs_no_training_and_is_the_same_under_every_stage(runs, world) -> None:
    plain = plain_losses(world, training(steps=9))
    lines = [
        [json.loads(line) for line in (runs[world] / f"val-{stage}.validation.jsonl").read_text().splitlines()]
        for stage in STAGES
    ]
    for stage in STAGES:
        found = losses(runs[world], f"val-{stage}")
        assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) < 1e-4, stage
    assert [line["step"] for line in lines[0]] == [2, 4, 6, 8, 9]
    assert lines[0] == lines[1] == lines[2]
    # the oracle: the kept model, read from its file into a model of its own, asked in this one process
    best = max(lines[0], key=lambda line: line["R@10"])
    kept = model(seed=5)
    load_weights(runs[world] / "val-3.safetensors", kept)
    scores = worker_validation(training(validate_every=2)).measure_model(kept)
    assert {"step": best["step"], **scores} == pytest.approx(best)  # processes add up in another order


@pytest.mark.parametrize(("world", "precision"), [(1, "fp32"), (1, "bf16"), (2, "fp32")])
@pytest.mark.parametrize("stage", STAGES)
def test_a_training_that_got_sigterm_goes_on_to_the_same_weights(runs, world, stage, precision) -> None:
    folder, name = runs[world], f"{precision}-{stage}"
    said = (folder / f"broken-{name}.error").read_text()
    assert said.startswith("Interrupted: ended at step 3 by SIGTERM")
    whole, gone_on = load_file(folder / f"whole-{name}.safetensors"), load_file(folder / f"on-{name}.safetensors")
    assert all(torch.equal(value, gone_on[key]) for key, value in whole.items()) and set(whole) == set(gone_on)
    assert losses(folder, f"whole-{name}") == losses(folder, f"on-{name}")


def test_the_weights_of_a_state_are_the_same_under_every_stage(runs) -> None:
    for world in WORLDS:
        found = []
        for stage in STAGES:
            learner = Learner(model(seed=5), "generate")
            load_weights_of(runs[world] / f"left-{stage}", "step3", stage, learner)
            found.append(dict(learner.named_parameters()))
        start = dict(Learner(model(), "generate").named_parameters())
        for name, value in found[0].items():
            assert torch.allclose(value, found[1][name], atol=1e-5) and torch.allclose(value, found[2][name], atol=1e-5)
        moved = sum((value - start[name]).abs().max() > 1e-3 for name, value in found[0].items())
        assert moved > len(start) / 2


@pytest.mark.parametrize("stage", STAGES)
def test_another_number_of_processes_is_refused_in_words_or_goes_on_with_the_weights(runs, stage, tmp_path) -> None:
    state = tmp_path / "state"
    shutil.copytree(runs[2] / f"left-{stage}", state)
    assert json.loads((state / "step3" / "about.json").read_text())["world_size"] == 2
    keys = {"zero_stage": stage, "steps": SHORT}
    said = launch(tmp_path, 1, [
        {"name": "exact", "state": "state", "training": keys},
        {"name": "weights", "state": "state", "training": {**keys, "resume": "weights"}},
    ])  # fmt: skip
    refused = (tmp_path / "exact.error").read_text()
    assert "is of 2 processes" in refused and "set train.resume: weights" in refused
    assert "resuming from step 3" in said and "weights only: the optimizer starts from scratch" in said
    lines, whole = (
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in (tmp_path / "weights.jsonl", runs[2] / f"whole-fp32-{stage}.jsonl")
    )
    assert [line["step"] for line in lines] == list(range(1, SHORT + 1))
    assert [line["learning_rate"] for line in lines] == pytest.approx([line["learning_rate"] for line in whole])
    learner = Learner(model(seed=5), "generate")
    load_weights_of(runs[2] / f"left-{stage}", "step3", stage, learner)
    batches = Batches(pools(), "generate", 0, embeddings(), PAD, Training())
    first = learner(batches.of(3, torch.device("cpu")))[0].item()  # the weights of the state on step 4 of one process
    assert lines[3]["loss"] == pytest.approx(first, abs=1e-4)


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


def test_two_nodes_are_one_training(runs, tmp_path) -> None:
    """Two launchers that meet at an address, one process each, as on two machines; SIGTERM to one ends both with code 75."""
    shared = {"training": {"steps": SHORT}, "output": str(tmp_path)}
    jobs = [
        {"name": "nodes", **shared},
        {"name": "ended", "terminate_at": 2, "terminate_rank": 1, "leave": True, **shared},
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "grace.training.launch", "--nnodes", "2", "--nproc-per-node", "1", "--local-addr"]
    command += ["127.0.0.1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "nodes"]
    command += [str(ROOT / "tests/distributed/worker.py"), str(tmp_path / "jobs.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [node.communicate(timeout=540)[1] for node in nodes]
    assert losses(tmp_path, "nodes") == losses(runs[2], "whole-fp32-0"), said
    assert [node.returncode for node in nodes] == [75, 75], said
    assert "ended at step 3 by SIGTERM" in (tmp_path / "ended.error").read_text()


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


def test_a_state_with_code_in_it_is_refused(runs, tmp_path) -> None:
    (tmp_path / "step1").mkdir()
    torch.save({"module": {"x": torch.nn.Linear(1, 1)}}, tmp_path / "step1" / "mp_rank_00_model_states.pt")
    with pytest.raises(GraceError, match="cannot be read"):
        load_weights_of(tmp_path, "step1", 0, Learner(model(), "generate"))

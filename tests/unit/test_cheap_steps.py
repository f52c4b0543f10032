"""Every saving of a training step against the plain way: the same loss and the same gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from benchmarks.training.naive import naive_loss
from grace.identifiers.base import read_tokenizer
from grace.model.batches import PAD_IMAGE, Samples, collate
from grace.model.flamingo import build
from grace.model.prompts import Prompts
from grace.plan.tracker import LiveBytes
from grace.towers.dual_encoder import DualEncoder
from grace.towers.embeddings import Embeddings, load_embeddings
from grace.towers.scratch import ScratchDualEncoder
from grace.training.learner import Learner, choose_trainable
from grace.training.losses import cross_entropy_sum
from grace.training.model_in_training import ModelInTraining
from grace.training.objectives import generation_loss
from grace.training.pools import Pool
from grace.training.sampler import WINDOW, Batches, Sampler
from grace.workflow.config import Flamingo, ScratchLanguageModel, ScratchTower, Training

TEXTS = ("two dogs", "a man riding a horse outside a barn", "rain", "people sit beside the wide river")
KINDS = ("opt", "llama", "mpt")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return read_tokenizer(tokenizer_folder)


def model(tokenizer, architecture: str = "opt", layers: int = 2):
    scratch = ScratchLanguageModel(architecture=architecture, width=32, layers=layers, heads=2, max_length=96)
    return build(Flamingo(scratch=scratch, perceiver_latents=3), tokenizer, visual_width=16)


def retrieve_samples(tokenizer, count: int = 4) -> Samples:
    prompts, rng = Prompts(tokenizer), np.random.default_rng(0)
    targets = prompts.identifier_targets([[5 + row % 9] * (1 + row % 3) for row in range(count)])
    texts = [TEXTS[row % 4] + " seen" * int(rng.integers(0, 9)) for row in range(count)]
    return Samples(prompts.retrieve(texts), targets, np.full(count, PAD_IMAGE), np.empty(0, dtype=np.int64))


def gradients(module: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad(set_to_none=True)
    loss.backward()
    return {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}


def assert_alike(ours: dict[str, torch.Tensor], oracle: dict[str, torch.Tensor], tolerance: float = 1e-4) -> None:
    assert set(ours) == set(oracle)
    scale = max(value.norm() for value in oracle.values())
    for name, value in oracle.items():
        assert (ours[name] - value).norm() <= tolerance * (value.norm() + 1e-3 * scale), name


@pytest.mark.parametrize("architecture", KINDS)
def test_the_retrieve_step_has_the_loss_and_gradients_of_the_naive_step(tokenizer, tmp_path, architecture) -> None:
    """No tower, one pad image, the head at supervised positions only: against all of it for every sample."""
    settings = ScratchTower(image_size=16, patch_size=8, width=16, layers=1, heads=2, text_width=16, text_layers=1)
    tower = ScratchDualEncoder(DualEncoder(settings, 10), None, settings)
    pad = Image.new("RGB", (16, 16), (128, 128, 128))
    pad.save(tmp_path / "pad.png")
    _, tokens = tower.encode_images([pad])
    vectors = Embeddings(np.zeros((1, 8), "f4"), np.zeros((1, 4, 16), "f2"), tokens.half().numpy())
    samples, flamingo = retrieve_samples(tokenizer), model(tokenizer, architecture)
    batch = collate(samples, np.arange(4), vectors, tokenizer.pad_token_id, "retrieve", 1)
    assert len(batch.visual) == 1 and len(batch.next_ids) < batch.input_ids.numel() / 2
    loss, terms = generation_loss(flamingo, batch)
    ours = gradients(flamingo, loss)
    images = [tmp_path / "pad.png"] * 4
    slow, count = naive_loss(flamingo, tower, images, samples, np.arange(4), tokenizer.pad_token_id)
    assert terms.item() == count and loss.item() == pytest.approx(slow.item(), rel=1e-5)
    assert_alike(ours, gradients(flamingo, slow))


def test_the_model_in_training_holds_no_tower_and_its_tokens_are_memory_mapped(tokenizer, tmp_path) -> None:
    flamingo = model(tokenizer)
    assert not [name for name, _ in flamingo.named_parameters() if name.startswith("vision_encoder")]
    shapes = {"image_embeddings": (5, 8), "visual_tokens": (5, 4, 16), "pad_tokens": (1, 4, 16)}
    for name, shape in shapes.items():
        kind = "f4" if name == "image_embeddings" else "f2"
        np.save(tmp_path / f"{name}.npy", np.arange(np.prod(shape)).reshape(shape).astype(kind))
    found = load_embeddings(tmp_path, 5)
    assert isinstance(found.tokens, np.memmap)
    picked = found.visual([3, PAD_IMAGE])
    assert torch.equal(picked[0], torch.from_numpy(np.load(tmp_path / "visual_tokens.npy")[3]).float())
    assert torch.equal(picked[1], torch.from_numpy(np.load(tmp_path / "pad_tokens.npy")[0]).float())


@pytest.mark.parametrize("share", [False, True])
def test_the_pad_image_is_resampled_once_a_step(tokenizer, share) -> None:
    """With share_images once for all kinds of samples; the loss and the gradients stay."""
    rng = np.random.default_rng(0)
    tokens, pad = rng.normal(size=(6, 4, 16)).astype("f2"), rng.normal(size=(1, 4, 16)).astype("f2")
    vectors = Embeddings(np.zeros((6, 8), "f4"), tokens, pad)
    samples = retrieve_samples(tokenizer, 12)
    own = Samples(samples.prompts, samples.targets, np.arange(12) % 6, samples.labels)
    pools = [Pool("memorize", own, 3), Pool("retrieve", samples, 4), Pool("pseudo", samples, 2)]
    learner = Learner(model(tokenizer), "generate")
    dealt = Batches(pools, "generate", 0, vectors, tokenizer.pad_token_id, Training(share_images=share)).of(0, "cpu")
    seen = []
    learner.flamingo.perceiver.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(1)))
    loss, _ = learner(dealt)
    ours = gradients(learner, loss)
    wanted = torch.from_numpy(pad[0]).float().flatten()
    pads = sum(int((rows == wanted).all(1).sum()) for rows in seen)
    assert pads == (1 if share else 2)
    plain = 0.0
    for batch in dealt:  # every sequence with a run of the perceiver of its own
        media = learner.flamingo.resample(batch.visual[batch.image_of])
        plain = plain + generation_loss(learner.flamingo, batch, media)[0]
    plain = plain / sum(len(batch.next_ids) for batch in dealt)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert_alike(ours, gradients(learner, plain))


def test_batches_of_like_length_pad_little() -> None:
    lengths = np.random.default_rng(0).lognormal(3, 0.4, size=20 * WINDOW * 8).astype(int) + 3

    def padding(batches: list[np.ndarray]) -> float:
        return 1 - sum(lengths[rows].sum() for rows in batches) / sum(
            len(rows) * lengths[rows].max() for rows in batches
        )

    sampler = Sampler(lengths, 8, (0,))
    dealt = [sampler.rows(step) for step in range(20 * WINDOW)]
    drawn = np.random.default_rng(1).permutation(len(lengths)).reshape(-1, 8)
    assert sorted(np.concatenate(dealt)) == sorted(range(len(lengths)))
    assert padding(dealt) < padding(list(drawn)) / 3


@pytest.mark.parametrize("chunk", [1, 4, 7, 50])
def test_the_chunked_loss_has_the_same_gradients_and_keeps_no_logits(chunk) -> None:
    torch.manual_seed(0)
    supervised, width, words = 33, 16, 500
    head = nn.Linear(width, words, bias=False)
    hidden, labels = torch.randn(supervised, width, requires_grad=True), torch.randint(words, (supervised,))
    plain = F.cross_entropy(head(hidden), labels, reduction="sum")
    oracle = torch.autograd.grad(plain, [hidden, head.weight])
    with LiveBytes() as live:
        for tensor in (head.weight, hidden, labels):
            live.add(tensor)
        own = live.live
        loss = cross_entropy_sum(head, hidden, labels, chunk)
        kept = live.live - own
        found = torch.autograd.grad(loss, [hidden, head.weight])
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, oracle, strict=True))
    if chunk < supervised:
        assert kept < 4 * words, "logits are kept for the backward pass"
        # a chunk's logits, their log-softmax and gradient, and the two gradients of the head that are summed
        assert live.peak - own < 4 * words * (4 * chunk + 3 * width) + 4096
    half = cross_entropy_sum(head.bfloat16(), hidden.bfloat16(), labels, chunk)
    assert half.dtype == torch.float32


class Kept:
    """Bytes that autograd keeps of a forward pass: saved tensors by storage, those of the parameters left out."""

    def __init__(self, module: nn.Module) -> None:
        self.own = {value.untyped_storage().data_ptr() for value in module.parameters()}
        self.bytes: dict[int, int] = {}
        self.held: list[torch.Tensor] = []  # alive, so that no address is used twice

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.bytes[storage.data_ptr()] = storage.nbytes()
            self.held.append(tensor)
        return tensor


@pytest.mark.parametrize("architecture", KINDS)
def test_activation_checkpointing_saves_memory_and_changes_nothing(tokenizer, architecture) -> None:
    """Counted twice: what autograd packs (saved-tensor hooks), and the peak of live bytes over both passes."""
    rng = np.random.default_rng(0)
    vectors = Embeddings(np.zeros((6, 8), "f4"), rng.normal(size=(6, 4, 16)).astype("f2"), np.ones((1, 4, 16), "f2"))
    samples = retrieve_samples(tokenizer, 32)
    batch = collate(samples, np.arange(32), vectors, tokenizer.pad_token_id, "retrieve", 1)
    seen, found = {}, {}
    for way in ("plain", "checkpointed"):
        flamingo = model(tokenizer, architecture, layers=6)
        training = Training(activation_checkpointing=way == "checkpointed")
        choose_trainable(flamingo, training)
        kept = Kept(flamingo)
        with ModelInTraining(flamingo, training).recomputed():
            with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
                loss, _ = generation_loss(flamingo, batch)
            found[way] = (loss.item(), gradients(flamingo, loss))
            flamingo.zero_grad(set_to_none=True)
            with LiveBytes() as live:
                generation_loss(flamingo, batch)[0].backward()
        seen[way] = (sum(kept.bytes.values()), live.peak)
    assert seen["checkpointed"][0] < seen["plain"][0] / 5
    assert seen["checkpointed"][1] < seen["plain"][1] / 1.8
    assert found["plain"][0] == found["checkpointed"][0]
    assert_alike(found["checkpointed"][1], found["plain"][1], 1e-6)


MASTER = """
import torch
from grace.workflow.config import Flamingo, Training
from grace.model.flamingo import build
from grace.plan.shapes import Shape, Words, batches
from grace.training.deepspeed_engine import make_engine
from grace.training.learner import Learner, choose_trainable

settings = Training(precision="bf16", zero_stage={stage}, learning_rate=1e-6, warmup_steps=0, schedule="constant")
shape = Shape(memorize=1, retrieve=2, pseudo=0, length=8, supervised=3, vocabulary=50, visual_tokens=4, visual_width=32)
model = build(Flamingo(scratch=dict(width=32, layers=2, heads=2)), Words(50), 32)
learner = Learner(model, "generate")
choose_trainable(model, settings)
engine = make_engine(learner, settings, shape.samples)
inside = engine.optimizer
masters = inside.fp32_partitioned_groups_flat if {stage} == 3 else inside.single_partition_of_fp32_groups
before = [value.detach().clone() for value in masters]
for _ in range(2):
    loss, _ = engine(batches(shape))
    engine.backward(loss)
    engine.step()
states = [value for state in inside.optimizer.state.values() for value in state.values() if value.dim()]
assert states and all(value.dtype == torch.float32 for value in [*masters, *states])
assert all(value.dtype == torch.bfloat16 for value in learner.parameters())
moved = max((value - old).abs().max().item() for value, old in zip(masters, before))
assert 0 < moved < 1e-5, moved  # steps that a bf16 weight of 0.02 could not take
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_bf16_keeps_master_weights_and_moments_in_fp32(stage) -> None:
    """DeepSpeed runs in a process of its own, as everywhere in the tests."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MASTER.replace("{stage}", str(stage))],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]

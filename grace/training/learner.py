"""What the optimizer works on: a Flamingo with its objective as one module, and which of its parameters are trained."""

from __future__ import annotations

from torch import Tensor, nn

from grace.model.batches import Batch, media_of
from grace.model.flamingo import GraceFlamingo
from grace.training.distillation import Teacher
from grace.training.lora import adapters, add_adapters
from grace.training.objectives import OBJECTIVES
from grace.workflow.config import Training


class Learner(nn.Module):
    """The module that DeepSpeed wraps: a Flamingo and its objective."""

    def __init__(
        self, flamingo: GraceFlamingo, objective: str, loss_chunk: int = 0, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.flamingo, self.objective, self.loss_chunk = flamingo, OBJECTIVES[objective], loss_chunk
        self.teacher = teacher

    def forward(self, batches: list[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over all terms of all kinds, nats, and the mean of each kind.

        Batches that share one `visual` (see `share_images`) share its run through the perceiver.
        """
        resampled: dict[int, Tensor] = {}
        sums = {}
        for batch in batches:
            if id(batch.visual) not in resampled:
                resampled[id(batch.visual)] = self.flamingo.resample(batch.visual)
            media = media_of(self.flamingo, batch, resampled[id(batch.visual)])
            sums[batch.kind] = self.objective(self.flamingo, batch, media, self.loss_chunk, self.teacher)
        total = sum(loss for loss, _ in sums.values()) / sum(terms for _, terms in sums.values())
        return total, {kind: (loss / terms).detach() for kind, (loss, terms) in sums.items()}


def prepare_parameters(model: GraceFlamingo, training: Training, seed: int) -> None:
    """Add the adapters that `training.trainable` asks for, started by `seed`, and let gradients into what is trained."""
    if "lora" in training.trainable:
        add_adapters(model, training.lora, seed)
    choose_trainable(model, training)


def choose_trainable(model: GraceFlamingo, training: Training) -> None:
    """Let gradients into the parts that `training.trainable` names, into adapters, and into the atomic head."""
    model.requires_grad_(False)
    attention = model.lang_encoder.gated_cross_attn_layers
    if "language_model" in training.trainable:
        model.lang_encoder.requires_grad_(True)
    if "lora" in training.trainable and not hasattr(model, "atomic_head"):
        # identifiers are written with tokens that no one has trained yet; a class is read off without any
        model.lang_encoder.get_input_embeddings().requires_grad_(True)
        model.lang_encoder.get_output_embeddings().requires_grad_(True)
    attention.requires_grad_("cross_attention" in training.trainable)
    model.perceiver.requires_grad_("perceiver" in training.trainable)
    for adapter in adapters(model):
        adapter.requires_grad_(True)
    if hasattr(model, "atomic_head"):
        model.atomic_head.projection.requires_grad_(True)
        model.atomic_head.log_scale.requires_grad_(True)
        model.atomic_head.classes.requires_grad_(model.atomic_head.train_classes)

"""What GRACE is compared with: the dual encoder with exact search (`python -m grace baseline`)."""

from grace.evaluation.baselines.dual_encoder import baseline

__all__ = ["baseline"]

"""Evaluation: from TREC runs to Recall with intervals and a paired test (`python -m grace evaluate`, `metrics`)."""

from grace.evaluation.stage import evaluate, metrics

__all__ = ["evaluate", "metrics"]

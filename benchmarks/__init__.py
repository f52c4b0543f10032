"""Comparisons of speed and size: ratios from one run on one machine, never timed asserts."""

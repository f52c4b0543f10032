"""Comparisons of speed and size: ratios in one run on one machine, never timed asserts."""

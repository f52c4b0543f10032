"""Measurements: what takes how long and how much memory, and comparisons as ratios in one run. No tests."""

"""Measurements, as ratios against a baseline of the same minute. `scripts/bench` runs them."""

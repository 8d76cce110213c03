"""Launching: training sweeps from Python, and scripts that take a training run to where the accelerators are."""

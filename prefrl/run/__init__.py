"""Runs: the training loop, the run folder, checkpoint and resume, evaluation, plots and sweeps."""

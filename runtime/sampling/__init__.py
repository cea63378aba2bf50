"""Sampling from a trained run: masked positions of a canvas are filled, on one code path for all tasks."""

"""Runs: their configuration, the stages from images to a trained pipeline, and what can be told before."""

"""Comparisons: the same training with several objectives, and one model under many sampling settings."""

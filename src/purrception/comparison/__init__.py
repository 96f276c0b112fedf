"""Comparisons: the same training for each objective, and the same model under many sampling settings."""

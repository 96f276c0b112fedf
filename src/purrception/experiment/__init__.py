"""Runs: their configuration, the stages from images to a trained pipeline, planning, and export."""

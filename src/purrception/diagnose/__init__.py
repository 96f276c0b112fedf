"""What ``purrception diagnose`` does: a run → readings of the instruments → one report; the suite."""

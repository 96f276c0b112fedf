"""The reports of ``purrception diagnose``: what the instruments measure of a run."""

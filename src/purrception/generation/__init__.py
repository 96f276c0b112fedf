"""From a trained network to images: the pipeline, its sampler, editing, and what is written to disk."""

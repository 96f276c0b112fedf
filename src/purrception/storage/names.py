"""Names of files and places by which it is known what something is; looking needs no PyTorch."""

from __future__ import annotations

CONFIG_FILE = "config.json"
"""The configuration of a saved model, as diffusers names it."""
HUB_PREFIX = "hub:"
"""How an address on the Hugging Face hub begins."""
INDEX_FILE = "model_index.json"
"""The index of a saved pipeline."""

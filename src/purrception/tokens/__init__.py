"""Token shards: images stored as codebook indices, which the training loop streams.

A set of shards is a folder with ``manifest.json`` and ``shard-00000.safetensors``, … Each shard holds
``indices`` (uint16 up to K = 65536, else int32; ``[n, h, w]``) and ``labels`` (int32 ``[n]``): two bytes per
code, where float32 embeddings would take 4·D.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from purrception.utils.lazy import lazy_names

if TYPE_CHECKING:
    from purrception.tokens.dataset import TokenDataset
    from purrception.tokens.encoding import EncodingConfig
    from purrception.tokens.manifest import MANIFEST_FILE, Manifest, Shard, Standardisation
    from purrception.tokens.order import ShuffledOrder, rank_share
    from purrception.tokens.preparation import SUMMARY_FILE, describe_skipped, prepare_splits, write_tokens
    from purrception.tokens.store import TokenStore

__getattr__, __dir__ = lazy_names(__name__)

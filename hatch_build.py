"""What the build adds to the package's metadata: its addresses, and a README that shows its pictures elsewhere.

Only who publishes knows the repository. GitHub's runners give it as ``GITHUB_REPOSITORY`` (``OWNER/NAME``) and the
tag or branch as ``GITHUB_REF_NAME``; without them the metadata names no repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PAPER = "https://arxiv.org/abs/2510.01478"


class CustomMetadataHook(MetadataHookInterface):
    """Sets ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add both; in a published README every relative link and picture gets the repository's address."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["urls"] = {"Paper": PAPER}
        if repository := os.environ.get("GITHUB_REPOSITORY"):
            version = os.environ.get("GITHUB_REF_NAME", "main")
            home = f"https://github.com/{repository}"
            metadata["urls"] |= {
                "Repository": home,
                "Documentation": f"{home}/blob/{version}/docs/index.md",
                "Changelog": f"{home}/blob/{version}/CHANGELOG.md",
                "Issues": f"{home}/issues",
            }
            text = re.sub(r'(?<= src=")(?!https?:)', f"{home}/raw/{version}/", text)
            text = re.sub(r"(?<=\]\()(?!https?:|#)", f"{home}/blob/{version}/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}

"""The app bundle that Flower wants with every run: names only, no code.

Flower starts no run without a bundle (a zip that it would hand to the nodes). Ours holds one
configuration file, which points at the installed packages; no site ever fetches it.
"""

from __future__ import annotations

import hashlib

import tomli_w
from flwr.cli.build import build_fab_from_files
from flwr.supercore.fab import Fab

from fdfed import __version__


def config_only_bundle() -> Fab:
    """A bundle of a single `pyproject.toml`, some 400 bytes; the same bytes each time."""
    project = {
        "project": {
            "name": "fdfed",
            "version": __version__,
            "description": "Names the installed apps; holds no code.",
            "license": "Apache-2.0",
            "dependencies": [],
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "fdfed",
                    "components": {
                        "serverapp": "fdfed_server.app:app",
                        "clientapp": "fdfed_client.app:app",
                    },
                    "config": {},
                }
            }
        },
    }
    content, _ = build_fab_from_files({"pyproject.toml": tomli_w.dumps(project).encode()})
    return Fab(hashlib.sha256(content).hexdigest(), content, {})

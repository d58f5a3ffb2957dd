"""The app bundle that Flower wants with every run: names only, no code.

Flower starts no run without a bundle (a zip that it would hand to the nodes). Ours holds one
configuration file, which points at the installed packages, and Flower's list of contents; no site
ever fetches it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Final

import tomli_w
from flwr.supercore.fab import Fab

from fdfed import __version__

_DATE: Final = (2024, 10, 1, 0, 0, 0)
"""Fixed, so that equal contents give equal bytes."""


def config_only_bundle() -> Fab:
    """A bundle of a single `pyproject.toml`, under 500 bytes; the same bytes each time."""
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
    return pack({"pyproject.toml": tomli_w.dumps(project).encode()})


def pack(files: Mapping[str, bytes]) -> Fab:
    """`files` as a bundle, with the list of contents (name, SHA-256, bits) that Flower adds.

    Flower's own builder is not used: it is a part of its command line, filters by rules for
    publishing, and warns about its own dependencies.
    """
    contents = "\n".join(
        f"{name},{hashlib.sha256(data).hexdigest()},{8 * len(data)}" for name, data in files.items()
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, ".info/CONTENT": contents.encode()}.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)
    bundle = buffer.getvalue()
    return Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})

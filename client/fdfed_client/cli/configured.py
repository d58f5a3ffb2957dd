"""Which `site.toml` a command means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fdfed.errors import InvalidInput

if TYPE_CHECKING:
    from fdfed_client.config import SiteConfig


def site_config(site: str, path: Path | None) -> SiteConfig:
    """The configuration of `site`, in the file that was given or in the usual places.

    Raises:
        InvalidInput: if there is none, it is wrong, or it is another site's.
    """
    from fdfed_client.config import SiteConfig

    loaded = SiteConfig.load(path or _find(site))
    if loaded.site != site:
        raise InvalidInput(
            f"--site is {site}, but the configuration belongs to {loaded.site}; give the "
            "site.toml of this site with --config"
        )
    return loaded


def _find(site: str) -> Path:
    places = (Path("site.toml"), Path("federation/sites") / site / "site.toml")
    for place in places:
        if place.exists():
            return place
    raise InvalidInput(
        f"no site.toml for {site}: looked at {' and '.join(map(str, places))}. Give the one that "
        "`fdfed-server provision` made with --config"
    )

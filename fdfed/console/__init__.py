"""What the two consoles share: who may look, the page's frame, and how it is served.

The coordinator's page is in `fdfed_server.console`, the hospital's in `fdfed_client.console`.
"""

from fdfed.console.access import Access, Role
from fdfed.console.app import Feed, console_app, require
from fdfed.console.serving import serving

__all__ = ["Access", "Feed", "Role", "console_app", "require", "serving"]

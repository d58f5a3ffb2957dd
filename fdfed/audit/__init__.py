"""A record of what crossed a border: lines chained by hashes, each signed, that no one can alter.

`AuditLog` writes one, for an agent or a coordinator; `verify` finds whatever was done to it since.
"""

from fdfed.audit.export import exported
from fdfed.audit.line import FIRST, Direction
from fdfed.audit.log import AuditLog
from fdfed.audit.verify import Verdict, verify

__all__ = ["FIRST", "AuditLog", "Direction", "Verdict", "exported", "verify"]

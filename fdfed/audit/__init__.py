"""A record of what crossed a border: lines chained by hashes, each signed, that no one can alter.

`AuditLog` writes one, for an agent or a coordinator; `verify` finds whatever was done to it since.
"""

from fdfed.audit.export import exported
from fdfed.audit.files import LogFiles
from fdfed.audit.line import FIRST, Direction
from fdfed.audit.log import AuditLog
from fdfed.audit.verify import Verdict, verify, verify_tail

__all__ = [
    "FIRST",
    "AuditLog",
    "Direction",
    "LogFiles",
    "Verdict",
    "exported",
    "verify",
    "verify_tail",
]

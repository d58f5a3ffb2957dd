"""The one gate through which everything leaves the hospital, on every channel.

What is not on its list cannot leave: the Flower node and the exchange stream send only what the
gate has cleared, and each clearance or refusal is on disk before anything moves.
"""

from fdfed_client.egress.failures import is_public, public_reason
from fdfed_client.egress.frames import FrameGate
from fdfed_client.egress.gate import Cleared, EgressGate
from fdfed_client.egress.kinds import REPLIES
from fdfed_client.egress.policy import Policy, PolicyRefusal

__all__ = [
    "REPLIES",
    "Cleared",
    "EgressGate",
    "FrameGate",
    "Policy",
    "PolicyRefusal",
    "is_public",
    "public_reason",
]

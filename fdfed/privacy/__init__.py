"""What hides a site's contribution in a sum, or bounds what can be learnt from it. Pure: keys and
arrays in, arrays out; no network, no Flower.

Secure aggregation: a site's round becomes integers (`contribution`, `fixed_point`), over which lie
masks that cancel in the sum (`pairwise_masks`), from keys that the roster vouches for
(`masking_keys`).

Differential privacy: `accounting`, `ledger`, `randomness`, `projection`, `prototype_release`. They
are not re-exported: Opacus takes seconds to import, and most runs do not need it.
"""

from fdfed.privacy.contribution import ContributionLayout, Mean, Measures
from fdfed.privacy.masking_keys import KeyContext, MaskingKey, Signer, announced_by
from fdfed.privacy.pairwise_masks import PairKey, PairwiseMasks

__all__ = [
    "ContributionLayout",
    "KeyContext",
    "MaskingKey",
    "Mean",
    "Measures",
    "PairKey",
    "PairwiseMasks",
    "Signer",
    "announced_by",
]

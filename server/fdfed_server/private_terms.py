"""The cross-site terms of a private round, from the sites' noisy mean prototypes.

What the sites released is public from then on, so whatever is computed from it costs no ε. The
cotangents are constants of the next round.

Noise makes distances too large. For two sites whose release has variance s² and t² on each of k
coordinates, E[D_noisy] = D + 2k (s² + t²), and D_noisy itself varies. It is left as it is: in
-2a / (D + eps) a D that is too large shortens the cotangent, the more the less is known, while a
debiased D would now and then come near zero and make it huge. Reported values of the term are
therefore too low.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fdfed.config import RunPlan, releases_prototypes
from fdfed.errors import PrivacyBudgetExceeded, WireError
from fdfed.exchange import TapLayout
from fdfed_server.terms import cross_site_terms


@dataclass(frozen=True, slots=True, eq=False)
class PrivateTerms:
    """What follows from one round's releases."""

    pair_terms: NDArray[np.float64]
    """`(taps,)`: L_exch of each tap; NaN with fewer than two sites."""
    cotangents: Mapping[str, NDArray[np.float64]]
    """By site, of its projected prototypes; empty with fewer than two sites."""


def terms_of_releases(
    plan: RunPlan, layout: TapLayout, released: Mapping[str, NDArray[np.float64]]
) -> PrivateTerms:
    """The terms of the sites that released something.

    Args:
        layout: of the network's own prototypes, before projection.
    """
    if len(released) < 2 or plan.privacy is None or plan.privacy.prototypes is None:
        return PrivateTerms(np.full(layout.taps, np.nan), {})
    method = plan.method
    # Every tap of every site counts as valid: which really are is not released.
    terms = cross_site_terms(
        layout.narrowed(plan.privacy.prototypes.dimensions),
        np.stack(list(released.values())),
        np.ones((len(released), layout.taps), dtype=bool),
        form=method.form,
        bound=method.exchange_bound,
        eps=method.eps,
    )
    return PrivateTerms(terms.pair_terms, dict(zip(released, terms.cotangents, strict=True)))


def stop_if_spent(site: str, failure: str, server_round: int) -> None:
    """Nothing, unless a site's answer says that its privacy budget is spent.

    Raises:
        PrivacyBudgetExceeded: if it does. Its peers' answers to the round are dropped; their
            ledgers have counted them.
    """
    # An agent adds a sentence after the name of the class; a simulation does not.
    if failure.partition(":")[0] == PrivacyBudgetExceeded.__name__:
        raise PrivacyBudgetExceeded(
            f"training stopped before round {server_round}: the privacy budget of {site} is spent, "
            "or its ledger cannot be used (the log of its agent says which). The last complete "
            "round stands"
        )


def check_release(
    plan: RunPlan, layout: TapLayout, server_round: int, released: NDArray[np.float64] | None
) -> None:
    """Nothing, if a site released in that round what the plan says.

    Raises:
        WireError: otherwise.
    """
    expected = releases_prototypes(plan, server_round)
    if (released is not None) != expected:
        raise WireError(
            f"prototypes {'are missing' if expected else 'came'} in round {server_round}, in which "
            f"the plan {'releases them' if expected else 'releases none'}"
        )
    if released is None or plan.privacy is None or plan.privacy.prototypes is None:
        return
    size = layout.narrowed(plan.privacy.prototypes.dimensions).size
    if len(released) != size:
        raise WireError(f"{len(released)} projected prototypes came; the plan has {size}")

"""What a curious site finds of its peers, on the prototypes of one tap."""

from __future__ import annotations

import numpy as np

from fdfed.studies.privacy.isometry_jobs import layout_of_tap, pools
from fdfed.studies.privacy.peer import peer_by_inversion
from fdfed.studies.privacy.rows import Row
from fdfed.studies.privacy.setting import Population, Setting
from fdfed.studies.privacy.vectors import mean_error, relative_error, stranger_error
from fdfed_server.terms import cross_site_terms


def peer_rows(setting: Setting, population: Population) -> list[Row]:
    """One site among S inverts its cotangent; the error is of the peer that it comes closest to."""
    rows = []
    for sites in (2, 3, 5):
        victims, own = pools(setting, population, 50 * sites)
        layout, errors = layout_of_tap(victims), []
        for frames in victims.reshape(50, sites, -1):
            terms = cross_site_terms(layout, frames, np.ones((sites, 1), dtype=bool), eps=1e-12)
            guess = peer_by_inversion(frames[0], terms.cotangents[0])
            errors.append(min(relative_error(guess, peer) for peer in frames[1:]))
        values = (
            ("prototypes, relative error", float(np.mean(errors)), mean_error(own, victims)),
            ("a stranger's, relative error", stranger_error(victims), None),
        )
        rows += [
            Row(
                part="peer",
                attack="inversion of a cotangent",
                defence="none" if sites == 2 else f"mean over {sites - 1} peers",
                setting=f"S = {sites}",
                measure=measure,
                value=value,
                reference=reference,
                n=50,
            )
            for measure, value, reference in values
        ]
    return rows

"""What one roster changes of another, for whoever is to sign it."""

from __future__ import annotations

from dataclasses import dataclass

from fdfed.membership.roster import Roster, SiteIdentity


@dataclass(frozen=True, slots=True)
class Difference:
    """What a draft would change, for whoever is to sign it."""

    added: dict[str, SiteIdentity]
    removed: tuple[str, ...]
    renewed: tuple[str, ...]
    """Sites with another certificate but the same keys."""
    replaced: dict[str, SiteIdentity]
    """Sites with other keys."""
    plan_key: str | None
    """The key that signs run plans, if it is another one."""

    @classmethod
    def between(cls, before: Roster, after: Roster) -> Difference:
        """What `after` changes; the signers apart, whom the policies name."""
        both = [name for name in after.sites if name in before.sites]
        same = [n for n in both if after.sites[n].fingerprint == before.sites[n].fingerprint]
        return cls(
            added={n: site for n, site in after.sites.items() if n not in before.sites},
            removed=tuple(n for n in before.sites if n not in after.sites),
            renewed=tuple(n for n in same if after.sites[n] != before.sites[n]),
            replaced={n: after.sites[n] for n in both if n not in same},
            plan_key=after.plan_key if after.plan_key != before.plan_key else None,
        )

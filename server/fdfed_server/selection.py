"""Which round's weights count as the best so far."""

from __future__ import annotations

from fdfed.evaluation.results import RoundRecord, is_known


def displaces(record: RoundRecord, best: RoundRecord | None) -> bool:
    """Whether the weights of `record` take the place of those of `best`.

    Both are scored by the unweighted mean of validation Dice over the sites that scored both: a
    round in which a site with difficult images was away is not better for that. Of equals the newer
    is taken, and so it is where no site scored both.

    Args:
        best: the best round so far, which has a score; None if none has one yet. The newest round
            stands in for the best then, whether it was scored or not.
    """
    if best is None:
        return True
    if record.mean_val_dice is None:
        return False
    both = [
        (new.val_dice, old.val_dice)
        for site, new in record.sites.items()
        if is_known(new.val_dice)
        and (old := best.sites.get(site)) is not None
        and is_known(old.val_dice)
    ]
    return sum(new for new, _ in both) >= sum(old for _, old in both)

"""The replies that may leave over Flower: for each kind its form, and what it may answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from flwr.app import RecordDict

from fdfed.errors import WireError
from fdfed.wire import (
    EvaluateResult,
    MaskedResult,
    Prepared,
    Ready,
    RosterInForce,
    SecretOffer,
    TrainResult,
    without_weights,
)
from fdfed_client.egress.policy import PolicyRefusal


@dataclass(frozen=True, slots=True)
class Reply:
    """The form of one kind of reply."""

    answers: str
    """Flower's type of the message that it answers."""
    read: Callable[[RecordDict], Any]
    """Its strict reader, which raises `WireError`."""
    has_weights: bool = False


REPLIES: Final[Mapping[str, Reply]] = {
    "prepared": Reply("query.prepare", Prepared.from_record),
    "in-force": Reply("query.roster", RosterInForce.from_record),
    "offered": Reply("query.secret", SecretOffer.from_record),
    "is-ready": Reply("query.ready", Ready.from_record),
    "trained": Reply("train", TrainResult.from_record, has_weights=True),
    "masked": Reply("train", MaskedResult.from_record),
    "evaluated": Reply("evaluate", EvaluateResult.from_record),
}


def check_reply(kind: str, record: RecordDict, *, asked: str, site: str, min_count: int) -> None:
    """Whether `record` is a reply of this kind and nothing besides.

    It is read and built again; what is not the same to the byte held something that the kind has
    no place for.

    Args:
        asked: Flower's type of the message that is answered.
        site: this site's name, the only one that it may claim.
        min_count: fewest images behind a score.

    Raises:
        PolicyRefusal: naming the rule that is broken.
    """
    form = REPLIES.get(kind)
    if form is None:
        raise PolicyRefusal("unknown_kind", "a reply of a kind that no rule allows was held back")
    if asked != form.answers:
        raise PolicyRefusal("schema", f"a {kind} reply to a {asked} message was held back")
    try:
        message = form.read(record)
        again = replace(message, weights={}) if form.has_weights else message
        same = without_weights(again.to_record()) == without_weights(record)
    except WireError as err:
        raise PolicyRefusal("schema", f"a {kind} reply was held back: {err}") from err
    if not same or (("weights" in record) != form.has_weights):
        raise PolicyRefusal(
            "schema", f"a {kind} reply with something in it that its kind has no place for"
        )
    _check_content(message, site=site, min_count=min_count)


def _check_content(message: object, *, site: str, min_count: int) -> None:
    if isinstance(message, Prepared) and message.site != site:
        raise PolicyRefusal("site", f"a reply in the name of another site than {site}")
    if isinstance(message, EvaluateResult):
        for scores in (message.dice, message.iou):
            if scores is not None and scores.n < min_count:
                raise PolicyRefusal(
                    "min_count",
                    f"scores over {scores.n} image(s) were held back; min_count in site.toml is "
                    f"{min_count}",
                )

"""The ready phase: who is in, with which keys, and under a number that never comes again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from flwr.app import RecordDict

from fdfed.errors import InvalidInput, QuorumNotMet
from fdfed.privacy import KeyContext, MaskingKey, Signer, announced_by
from fdfed.wire import Ready, ReadyRequest
from fdfed_server.ready_phase import AttemptCounter, ReadySet, ready_set
from fdfed_server.site_reply import SiteReply

NODES = {"c": 3, "a": 1, "b": 2}
REQUEST = ReadyRequest(run_id="0" * 16, server_round=3, attempt=2)


def announcement(site: str) -> str:
    signer = Signer.circle([site])[site]
    context = KeyContext(roster=signer.roster, run_id="0" * 16, server_round=3, attempt=2)
    return MaskingKey(signer, context).announcement


def ready(quorum: int = 2, **answers: RecordDict | str) -> ReadySet:
    """The set when sites answer with these records, or fail for these reasons."""

    def asking(nodes: Mapping[str, int], records: Mapping[str, RecordDict]) -> Iterator[SiteReply]:
        for site in nodes:
            assert ReadyRequest.from_record(records[site]) == REQUEST
            answer = answers.get(site, Ready(announcement=announcement(site)).to_record())
            if isinstance(answer, str):
                yield SiteReply(site=site, record=None, failure=answer)
            else:
                yield SiteReply(site=site, record=answer)

    return ready_set(asking, REQUEST, NODES, quorum=quorum)


def test_every_site_that_announces_a_key_is_in_the_set_in_the_order_of_the_plan() -> None:
    found = ready()
    assert list(found.nodes.items()) == list(NODES.items())
    assert [announced_by(key) for key in found.masking_keys] == list(NODES)


@pytest.mark.parametrize(
    "answer",
    [
        "CryptoError",
        RecordDict(),
        Ready(announcement="{}").to_record(),
        Ready(announcement=announcement("b")).to_record(),
    ],
    ids=["failed", "no message", "no key", "a key in another's name"],
)
def test_a_site_without_a_key_of_its_own_is_not_in_the_set(answer: RecordDict | str) -> None:
    found = ready(a=answer)
    assert list(found.nodes) == ["c", "b"]
    assert len(found.masking_keys) == 2


def test_a_set_below_the_quorum_or_of_one_is_none() -> None:
    with pytest.raises(QuorumNotMet, match=r"2 site\(s\) announced a masking key, 3 .*a: gone"):
        ready(quorum=3, a="gone")
    with pytest.raises(QuorumNotMet, match=r"1 site\(s\) announced a masking key, 2 are needed"):
        ready(quorum=1, a="gone", b="gone")


def test_attempts_of_a_round_count_up_and_each_round_begins_anew(tmp_path: Path) -> None:
    counter = AttemptCounter(tmp_path / "run")
    assert [counter.next(1), counter.next(1), counter.next(2), counter.next(2)] == [1, 2, 1, 2]


def test_attempts_go_on_after_a_restart(tmp_path: Path) -> None:
    AttemptCounter(tmp_path).next(5)
    assert AttemptCounter(tmp_path).next(5) == 2
    assert AttemptCounter(tmp_path).next(5) == 3
    assert AttemptCounter(tmp_path).next(6) == 1


def test_without_a_folder_attempts_count_in_memory() -> None:
    counter = AttemptCounter(None)
    assert [counter.next(1), counter.next(1)] == [1, 2]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '["a", 1]', "3"])
def test_a_damaged_count_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "attempt.json").write_text(text)
    with pytest.raises(InvalidInput, match="does not hold the number of the last attempt"):
        AttemptCounter(tmp_path)

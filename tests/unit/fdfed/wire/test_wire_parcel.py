"""Parcels: a head and objects in one body, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from flwr.proto.message_pb2 import ObjectTree

from fdfed.wire import Parcel, fill

A, B = "a" * 64, "b" * 64


def _read(data: bytes) -> Parcel:
    parcel = Parcel()
    parcel.ParseFromString(data)
    return parcel


def test_a_parcel_comes_back_as_it_was() -> None:
    head = ObjectTree(object_id=A)
    found = _read(Parcel(head.SerializeToString(), {A: b"", B: b"content"}).SerializeToString())
    assert found.objects == {A: b"", B: b"content"}
    assert found.read(ObjectTree) == head


def test_bytes_that_are_no_parcel_are_refused_wherever_they_end() -> None:
    whole = Parcel(b"head", {A: b"first", B: b"second"}).SerializeToString()
    between = {8, 8 + 36 + 5}  # after the head, and after the first object
    for end in set(range(len(whole))) - between:
        with pytest.raises(ValueError, match="ends within a block"):
            _read(whole[:end])
    with pytest.raises(ValueError, match="more than 10000 objects"):
        _read(bytes(4) + b"".join(n.to_bytes(32, "big") + bytes(4) for n in range(10_001)))


def test_a_head_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no ObjectTree"):
        _read(Parcel(b"\xff\xff").SerializeToString()).read(ObjectTree)


def test_what_fits_is_taken_and_what_does_not_is_left() -> None:
    objects = {A: b"12345", B: b"1234", "c" * 64: b"1"}
    assert list(fill(objects.items(), 6)) == [A, "c" * 64]

"""An agent that was killed knows which node it was; a copy of its folder does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fdfed_client.flower.known_node import KnownNode


def test_the_node_is_known_again_in_the_same_folder(tmp_path: Path) -> None:
    KnownNode(tmp_path).keep(2**64 - 1)
    assert KnownNode(tmp_path).load() == 2**64 - 1


def test_a_copy_of_the_folder_knows_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    KnownNode(state).keep(5)
    shutil.copytree(state, tmp_path / "copy")
    assert KnownNode(tmp_path / "copy").load() is None


@pytest.mark.parametrize("content", [b"", b"5", b"x y", b"5 0:0", b"\xff" * 300])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "flower-node").write_bytes(content)
    assert KnownNode(tmp_path).load() is None

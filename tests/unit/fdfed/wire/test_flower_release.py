"""Another release of Flower than the one that this code knows is refused."""

from __future__ import annotations

import pytest

from fdfed.errors import InvalidInput
from fdfed.wire.flower_release import FLOWER_VERSION, require_pinned_flower


def test_another_release_of_flower_is_refused_with_the_line_to_type() -> None:
    with pytest.raises(InvalidInput, match=rf"pip install flwr=={FLOWER_VERSION}"):
        require_pinned_flower("1.42.0")

import numpy as np
import pytest
import torch

from fdfed.errors import InvalidInput
from fdfed.exchange import TapLayout


def test_a_vector_holds_all_foregrounds_then_all_backgrounds_in_tap_order() -> None:
    layout = TapLayout(("Enc1", "Bot"), (2, 1))
    # [F_Enc1 (2) | F_Bot (1) | B_Enc1 (2) | B_Bot (1)]
    fore, back = layout.split(np.arange(1.0, 7)[None])
    assert [fore["Enc1"][0].tolist(), fore["Bot"][0].tolist()] == [[1, 2], [3]]
    assert [back["Enc1"][0].tolist(), back["Bot"][0].tolist()] == [[4, 5], [6]]
    assert layout.size == 6


def test_the_parts_are_views_into_the_vectors() -> None:
    layout = TapLayout(("a",), (2,))
    vectors = np.zeros((3, 4))
    foreground, _ = layout.split(vectors)
    foreground["a"][2, 1] = 7
    assert vectors[2, 1] == 7


def test_the_layout_of_features_takes_their_last_axis() -> None:
    assert TapLayout.of({"a": torch.zeros(3), "b": torch.zeros(4, 5)}) == TapLayout(
        ("a", "b"), (3, 5)
    )


@pytest.mark.parametrize(
    ("names", "channels", "text"),
    [
        ((), (), "at least one tap"),
        (("a",), (1, 2), "one channel count per tap"),
        (("a", "a"), (1, 2), "names must differ"),
        (("a",), (0,), "every tap needs a channel"),
        (("a",), (1 << 20,), "a frame holds at most"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(
    names: tuple[str, ...], channels: tuple[int, ...], text: str
) -> None:
    with pytest.raises(InvalidInput, match=text):
        TapLayout(names, channels)


def test_a_vector_of_another_size_is_refused() -> None:
    layout = TapLayout(("a",), (2,))
    with pytest.raises(InvalidInput, match=r"must be \(sites, 4\)"):
        layout.split(np.zeros(4))

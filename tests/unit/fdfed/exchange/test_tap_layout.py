import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import InvalidInput
from fdfed.exchange import TapLayout
from fdfed.exchange.packing import pack_prototypes

widths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def _layout(channels: list[int]) -> TapLayout:
    return TapLayout(tuple(f"tap{i}" for i in range(len(channels))), tuple(channels))


def test_a_vector_holds_all_foregrounds_then_all_backgrounds_in_tap_order() -> None:
    layout = TapLayout(("Enc1", "Bot"), (2, 1))
    foreground = {"Enc1": torch.tensor([1.0, 2.0]), "Bot": torch.tensor([3.0])}
    background = {"Enc1": torch.tensor([4.0, 5.0]), "Bot": torch.tensor([6.0])}
    # [F_Enc1 (2) | F_Bot (1) | B_Enc1 (2) | B_Bot (1)]
    assert pack_prototypes(layout, foreground, background).tolist() == [1, 2, 3, 4, 5, 6]
    assert layout.size == 6


@settings(deadline=None)
@given(channels=widths, sites=st.integers(1, 4))
def test_splitting_gives_back_what_was_packed(channels: list[int], sites: int) -> None:
    layout = _layout(channels)
    numbers = torch.arange(float(sites * layout.size)).reshape(sites, 2, -1)
    packed = [
        pack_prototypes(
            layout, *(dict(zip(layout.names, part.split(channels), strict=True)) for part in row)
        )
        for row in numbers
    ]
    split = layout.split(torch.stack(packed).numpy())
    for part, by_tap in enumerate(split):
        assert list(by_tap) == list(layout.names)
        joined = np.concatenate([by_tap[name] for name in layout.names], axis=1)
        assert np.array_equal(joined, numbers[:, part].numpy())


def test_the_gradient_of_a_packed_vector_reaches_each_prototype() -> None:
    layout = TapLayout(("a", "b"), (1, 2))
    f = {"a": torch.zeros(1, requires_grad=True), "b": torch.zeros(2, requires_grad=True)}
    b = {"a": torch.zeros(1, requires_grad=True), "b": torch.zeros(2, requires_grad=True)}
    pack_prototypes(layout, f, b).backward(torch.arange(6.0))
    gradients = [t.grad.tolist() for t in (f["a"], f["b"], b["a"], b["b"]) if t.grad is not None]
    assert gradients == [[0], [1, 2], [3], [4, 5]]


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


def test_packing_anything_but_the_layouts_taps_is_refused() -> None:
    layout = TapLayout(("a",), (2,))
    good = {"a": torch.zeros(2)}
    for bad in ({}, {"b": torch.zeros(2)}, {"a": torch.zeros(3)}):
        with pytest.raises(InvalidInput, match="foreground prototypes to pack"):
            pack_prototypes(layout, bad, good)
        with pytest.raises(InvalidInput, match="background prototypes to pack"):
            pack_prototypes(layout, good, bad)


def test_a_vector_of_another_size_is_refused() -> None:
    layout = TapLayout(("a",), (2,))
    with pytest.raises(InvalidInput, match=r"must be \(sites, 4\)"):
        layout.split(np.zeros(4))

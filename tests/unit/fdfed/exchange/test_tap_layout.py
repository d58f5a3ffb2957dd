import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import InvalidInput
from fdfed.exchange import TapLayout

widths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def _layout(channels: list[int]) -> TapLayout:
    return TapLayout(tuple(f"tap{i}" for i in range(len(channels))), tuple(channels))


def test_a_vector_holds_all_foregrounds_then_all_backgrounds_in_tap_order() -> None:
    layout = TapLayout(("Enc1", "Bot"), (2, 1))
    foreground = {"Enc1": torch.tensor([1.0, 2.0]), "Bot": torch.tensor([3.0])}
    background = {"Enc1": torch.tensor([4.0, 5.0]), "Bot": torch.tensor([6.0])}
    # [F_Enc1 (2) | F_Bot (1) | B_Enc1 (2) | B_Bot (1)]
    assert layout.pack(foreground, background).tolist() == [1, 2, 3, 4, 5, 6]
    assert layout.size == 6


@settings(deadline=None)
@given(channels=widths, seed=st.integers(0, 2**32 - 1))
def test_unpacking_gives_back_what_was_packed(channels: list[int], seed: int) -> None:
    layout = _layout(channels)
    rng = torch.Generator().manual_seed(seed)
    parts = [
        {
            n: torch.rand(c, generator=rng)
            for n, c in zip(layout.names, layout.channels, strict=True)
        }
        for _ in range(2)
    ]
    foreground, background = layout.unpack(layout.pack(*parts))
    for found, packed in ((foreground, parts[0]), (background, parts[1])):
        assert list(found) == list(layout.names)
        assert all(torch.equal(found[name], packed[name]) for name in packed)


@settings(deadline=None)
@given(channels=widths, sites=st.integers(1, 4))
def test_torch_and_numpy_agree_where_each_tap_lies(channels: list[int], sites: int) -> None:
    layout = _layout(channels)
    vectors = np.arange(sites * layout.size, dtype=np.float64).reshape(sites, layout.size)
    rows = [layout.unpack(torch.from_numpy(row)) for row in vectors]
    for part, by_tap in enumerate(layout.split(vectors)):
        for name, array in by_tap.items():
            assert array.tolist() == [row[part][name].tolist() for row in rows]


def test_the_gradient_of_a_packed_vector_reaches_each_prototype() -> None:
    layout = TapLayout(("a", "b"), (1, 2))
    f = {"a": torch.zeros(1, requires_grad=True), "b": torch.zeros(2, requires_grad=True)}
    b = {"a": torch.zeros(1, requires_grad=True), "b": torch.zeros(2, requires_grad=True)}
    layout.pack(f, b).backward(torch.arange(6.0))
    gradients = [t.grad.tolist() for t in (f["a"], f["b"], b["a"], b["b"]) if t.grad is not None]
    assert gradients == [[0], [1, 2], [3], [4, 5]]


def test_the_parts_are_views_into_the_vector() -> None:
    layout = TapLayout(("a",), (2,))
    vectors = np.zeros((3, 4))
    foreground, _ = layout.split(vectors)
    foreground["a"][2, 1] = 7
    assert vectors[2, 1] == 7
    vector = torch.zeros(4)
    layout.unpack(vector)[1]["a"][0] = 5
    assert vector[2] == 5


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
            layout.pack(bad, good)
        with pytest.raises(InvalidInput, match="background prototypes to pack"):
            layout.pack(good, bad)


def test_a_vector_of_another_size_is_refused() -> None:
    layout = TapLayout(("a",), (2,))
    with pytest.raises(InvalidInput, match=r"must be \(4,\)"):
        layout.unpack(torch.zeros(5))
    with pytest.raises(InvalidInput, match=r"must be \(sites, 4\)"):
        layout.split(np.zeros(4))

"""Hypothesis strategies that turn a valid input into one that a stranger might send."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.target import JsonPart, Target

_LENGTHS = (0, 1, 0x7F, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_DEEP, _NESTED, _LONG = "@deep@", "@nested@", "@long@"
_RAW = {
    json.dumps(_DEEP): "[" * 20_000 + "]" * 20_000,
    # Read without trouble, and too much for whoever then walks through it with more calls a level.
    json.dumps(_NESTED): "[" * 300 + "]" * 300,
    json.dumps(_LONG): "9" * 5_000,
}
"""What no Python value stands for: nesting, and an integer, beyond what is converted."""

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**400)),
    *(0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        " ",
        "\x00",
        "\ud800",
        "ａｄ",
        "site\n",
        "../../etc/passwd",
        "é" * 70_000,
        _DEEP,
        _NESTED,
        _LONG,
    ),
    *([], {}, [[]], [None] * 1000, {"": {}}, [[[[[[]]]]]]),
)


@st.composite
def mutated_bytes(draw: st.DrawFn, target: Target) -> bytes:
    """A seed after up to four accidents: bits flipped, parts cut, doubled, moved, or overwritten by
    a length that promises too much."""
    data = bytearray(draw(st.sampled_from(target.seeds())))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 64)))
        kind = draw(st.sampled_from(("flip", "cut", "end", "double", "length", "text", "move")))
        if kind == "flip" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[start:end]
        elif kind == "end":
            del data[start:]
        elif kind == "double":
            data[start:start] = data[start:end] * draw(st.sampled_from((1, 2, 200)))
        elif kind == "length":
            size, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(_ORDERS))
            number = draw(st.sampled_from(_LENGTHS)) % 256**size
            data[start : start + size] = number.to_bytes(size, order)
        elif kind == "text":
            data[start:end] = draw(st.binary(max_size=16))
        else:
            part = data[start:end]
            del data[start:end]
            data[len(data) // 2 : len(data) // 2] = part
    return bytes(data)


_ORDERS: tuple[Any, ...] = ("little", "big")


@st.composite
def mutated_json(draw: st.DrawFn, part: JsonPart) -> bytes:
    """A seed's JSON with up to three values exchanged, removed, added, or given twice."""
    value = json.loads(part.text)
    for _ in range(draw(st.integers(1, 3))):
        value = _edited(draw, value)
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    for written, raw in _RAW.items():
        text = text.replace(written, raw)
    if draw(st.integers(0, 9)) == 0:
        key = draw(st.sampled_from(_keys(value) or [""]))
        text = text.replace("{", "{" + f"{json.dumps(key)}: 1,", 1)
    return part.wrap(text)


def _edited(draw: st.DrawFn, value: Any) -> Any:
    """`value` with a change somewhere within it, at a random depth."""
    down = isinstance(value, dict | list) and value and draw(st.integers(0, 4)) > 0
    if not down:
        return copy.deepcopy(draw(st.sampled_from(HOSTILE)))
    key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
    kind = draw(st.sampled_from(("within", "within", "within", "remove", "add")))
    if kind == "within":
        value[key] = _edited(draw, value[key])
    elif kind == "remove":
        del value[key]
    elif isinstance(value, dict):
        value[draw(st.sampled_from(("", "extra", "__proto__", f"{key} ")))] = value[key]
    else:
        value.extend([value[key]] * draw(st.sampled_from((1, 3, 100))))
    return value


def _keys(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []

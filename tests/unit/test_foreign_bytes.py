"""Whatever bytes come, a parser takes them or refuses them by the error that it documents.

The targets, and the corpus that is replayed here, are those of the fuzzer (`tests/fuzz`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import mutated_bytes, mutated_json
from tests.fuzz.target import CORPUS, JsonPart, Target
from tests.fuzz.targets import TARGETS

pytestmark = [
    # Hostile bytes end in values that break annotations, which our own errors are to say.
    pytest.mark.bad_input,
    # Pillow's remarks on broken files are for developers of decoders.
    pytest.mark.filterwarnings("ignore"),
]
CHEAP = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
INPUTS = [(name, path) for name in TARGETS for path in sorted((CORPUS / name).iterdir())]
JSON = [(target, part) for target in TARGETS.values() for part in target.json]


def test_every_folder_of_the_corpus_has_a_target_and_every_target_a_small_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    for target in TARGETS.values():
        assert target.seeds()
        assert all(len(seed) <= target.max_bytes for seed in target.seeds())


@pytest.mark.parametrize(("name", "path"), INPUTS, ids=lambda value: getattr(value, "name", value))
def test_every_input_of_the_corpus_is_taken_or_refused(name: str, path: Path) -> None:
    TARGETS[name].accepts(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_target_takes_one_of_its_seeds(target: Target) -> None:
    assert any(target.accepts(seed) for seed in target.seeds())


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@CHEAP
@given(data=st.data())
def test_arbitrary_bytes_are_taken_or_refused(target: Target, data: st.DataObject) -> None:
    target.accepts(data.draw(st.binary(max_size=300)))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@CHEAP
@given(data=st.data())
def test_a_valid_input_after_accidents_is_taken_or_refused(
    target: Target, data: st.DataObject
) -> None:
    target.accepts(data.draw(mutated_bytes(target)))


@pytest.mark.parametrize(("target", "part"), JSON, ids=lambda value: getattr(value, "name", ""))
@CHEAP
@given(data=st.data())
def test_json_with_hostile_values_is_taken_or_refused(
    target: Target, part: JsonPart, data: st.DataObject
) -> None:
    target.accepts(data.draw(mutated_json(part)))

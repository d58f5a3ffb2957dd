from fdfed.errors import ConnectionFailed, WireError
from fdfed.exchange import ExchangeCode, FrameRefused
from fdfed.exchange import exchange_pb2 as pb


def test_python_and_the_wire_hold_the_same_table() -> None:
    on_wire = {name.removeprefix("CODE_"): number for name, number in pb.Code.items() if number}
    assert {code.name: code.value for code in ExchangeCode} == on_wire


def test_every_code_has_a_public_message_of_its_own() -> None:
    messages = [code.public_message for code in ExchangeCode]
    assert all(messages)
    assert len(set(messages)) == len(messages)


def test_a_refusal_names_its_code_and_keeps_its_detail_apart() -> None:
    refusal = FrameRefused(ExchangeCode.TOO_LATE, "step 3")
    assert isinstance(refusal, WireError)
    assert isinstance(refusal, ConnectionFailed)
    assert str(refusal).startswith("exchange refused with TOO_LATE: the step was answered")
    assert "step 3" not in refusal.code.public_message


def test_disagreement_on_identity_or_shape_never_passes_for_a_dropped_step() -> None:
    fatal = {code.name for code in ExchangeCode if not code.drops_the_step}
    assert fatal == {
        "MALFORMED",
        "WRONG_PROTOCOL",
        "UNKNOWN_SITE",
        "WRONG_SHAPE",
        "WRONG_TYPE",
        "TOO_LARGE",
        "WRONG_SUITE",
        "BAD_OPENING",
        "REPLAYED",
        "OUT_OF_ORDER",
        "TRUNCATED",
        "ALTERED",
        "REVOKED",
    }


def test_what_breaks_the_sealing_ends_the_stream() -> None:
    assert {code.name for code in ExchangeCode if code.ends_the_stream} == {
        "WRONG_PROTOCOL",
        "UNKNOWN_SITE",
        "DUPLICATE_STREAM",
        "WRONG_SUITE",
        "BAD_OPENING",
        "REPLAYED",
        "OUT_OF_ORDER",
        "TRUNCATED",
        "ALTERED",
        "REVOKED",
    }

"""A released model is used only as it was signed."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.cli.model import verify
from fdfed.cli.predict import predict
from fdfed.errors import CryptoError, InvalidInput
from fdfed.release import CARD, CARD_TEXT, MODEL, file_sha256, sign_release, verify_release

KEY = ed25519.Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw().hex()
OTHER = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    folder.mkdir()
    for name in (MODEL, CARD, CARD_TEXT):
        (folder / name).write_bytes(f"content of {name}\n".encode())
    sign_release(folder, KEY)
    return folder


def test_a_release_as_it_was_signed_verifies(folder: Path) -> None:
    assert verify_release(folder, public_key=PUBLIC).model_sha256 == file_sha256(folder / MODEL)


@pytest.mark.parametrize("name", [MODEL, CARD, CARD_TEXT, "release.json", "release.sig"])
def test_any_changed_file_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[10] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CryptoError, match="not use"):
        verify_release(folder, public_key=PUBLIC)


@pytest.mark.parametrize("name", [MODEL, CARD, CARD_TEXT, "release.json", "release.sig"])
def test_any_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidInput, match=name):
        verify_release(folder, public_key=PUBLIC)


@pytest.mark.parametrize("key", [OTHER, "00" * 32, "no key"], ids=["other", "zeros", "none"])
def test_another_key_is_refused(folder: Path, key: str) -> None:
    with pytest.raises(CryptoError, match="is not signed by the key"):
        verify_release(folder, public_key=key)


def test_a_manifest_that_leaves_a_file_out_vouches_for_none(folder: Path) -> None:
    # Signed, as a careless other program with the key might.
    import json

    values = json.loads((folder / "release.json").read_text())
    del values["files"][CARD]
    text = json.dumps(values)
    (folder / "release.json").write_text(text)
    signature = KEY.sign(b"fdfed model release 1\n" + text.encode()).hex()
    (folder / "release.sig").write_text(signature)
    with pytest.raises(CryptoError, match=CARD):
        verify_release(folder, public_key=PUBLIC)


def test_the_command_says_which_model_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(folder=folder, key=PUBLIC)
    assert file_sha256(folder / MODEL) in capsys.readouterr().out


def test_predict_does_not_even_open_a_model_whose_release_does_not_verify(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(CryptoError, match="is not signed by the key"):
        predict(model=folder / MODEL, images=tmp_path, out=out, verify_key=OTHER)
    with pytest.raises(InvalidInput, match=r"about the model\.safetensors of a"):
        predict(model=folder / CARD, images=tmp_path, out=out, verify_key=PUBLIC)
    assert not out.exists()

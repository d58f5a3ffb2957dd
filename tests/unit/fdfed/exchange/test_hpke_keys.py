"""HPKE keys against published vectors, and against a decapsulation and key schedule of our own."""

import base64
import hashlib
import hmac
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from fdfed.errors import CryptoError, InvalidInput
from fdfed.exchange import HpkePrivateKey, HpkePublicKey, HpkeSuite

KEYS = {suite: HpkePrivateKey.generate(suite) for suite in HpkeSuite}
suites = pytest.mark.parametrize("suite", list(HpkeSuite))

# RFC 9180, A.1.1 and A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, first encryption.
INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
COUNT_0 = bytes.fromhex("436f756e742d30")
TEXT = b"Beauty is truth, truth beauty"
A_1_PRIVATE = "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8"
A_1_PUBLIC = "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d"
A_1_ENC = "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
A_1_CT = (
    "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
)
A_1_SHARED = "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc"
A_2_PRIVATE = "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb"
A_2_ENC = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
A_2_CT = (
    "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"
)

# X-Wing (draft-connolly-cfrg-xwing-kem), appendix C, first vector: seed, ciphertext, shared secret.
XWING_SEED = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
XWING_SHARED = "d2df0522128f09dd8e2c92b1e905c793d8f57a54c3da25861f10bf4ca613e384"
XWING_CT = """
    uDqoKNTWK5qDzv/h09O7HvMSZGQ8BwxXmJJ+QfsHkUonP4+W54Js1TdaKD19qIUwTF3gUWoPBlQkPcW5f4v+uDH2glEh
    mqvdcjvGUSBBrLrvivRCZVJJQrkC5o/9IyIc2nCxtV13apLRFD6joMR19j7miQFXxxFtrj9iv3L2Cs0ruMwxziug3jZP
    UrjtOMedcZcVljpd04QtjotDq3BOR1m1MnvwJ8Y8j6hXxJCNWop7iKx/K+OU2Tw3Bt3U5pjMbONwEB9NAhMlQji0ouiC
    G25BShzyD2wSRLaZBG9aAcqgoaVVFjALQNIEjHfMc6+6ea/uqdLAEYvfKtuIcNwyjFUWzEWxogWBQQOeLJChEKnhazGN
    +1O9SaEm1rc/IVeHUXuJF8wByr0QfQaFmFTui0+YYcIm03ZMhzOasWw2Z9L0k4TlVFbdQEFLcKavhBWF9MkMaHJdV3BO
    6O585uL5vlgtvumF4Dj/w0br+04iFYtshDdKmrSkTh+R3lqsUZf4m8XlRC9R+aWTexAro76uv24cWDgKSl/tzkpOUCb4
    j1KPWf/S20F1Kzo9kO+r5GOJm31AhwxTDIhB6HErczZo7QM62/r7LUnTekTUBk5YY+sK8KCNR7PMiINzvAX3ozuEG8JY
    fFfraVVOijdnt1BpF7a3BJhyfxbqwaNuyNjPr3UVSfInfbJ36KVamlEGsjoCBrRyH6mzBIVSxb1bWU1uJH84wYxZGup/
    ViSccs57EXr8w6hiFYL5z3F4fhg97gk2eXbphAmtkhekl9+IgEI4TXcHprePX3+4QJ47U1F1NzRht3YALXmcutYoYL5w
    Vz7L4Tskbg2n6TpSFo4Ptql1a4le9/AUeg3IG/pkSwiKkigWDA+azxN5opQc0owG68gOROF6ovgXcBCv14qXzgho0WKe
    uylMUVGBLFg9rriGhSIPTakRgRLgcEH8wk1VZKmf294ohp/gciOH16mk0W4cyFVZF+CZRKpeuqrsLPYmk6+tQqP1GPzm
    fSc8xsn7VHKzgOhXPsfeBqO6L9X5MdcltJMCbLCsvT/mLQDkx5DZZdegOjwLQiK6jCqaFuKsZY9XKuDnRur8T+ugI1dv
    CJQieKBB+4KnClldW6y/KXziApiYpx5cOw0cYii0hbGt5QmzX7yn7Kl7ITLny2vEZTdRRrfc6slpMIrAwqyJ54Y+uJQw
    FbJDFMr7nHwOhf5UPVZljCE2Mlme+r/B7EndjIhUe7LMQMnTjL0wmbRUeEBWBTHQGIzR6cI6Dr7goD1Vd9ZrHSvLS6ry
    HMf+8eA4BsqWKZ3w37xW4bK0Pk/CDDf4NMSvYhJ+fa6Gw8JaL2lqyLWJ3scdWVv76Ute1LwH2ACzMHlv2ontt3vgKUE2
    E5NU64zTdZFXj5xgDdm+jsYhn91Qet8zl+1NaHB7jROyTOTNj7IoUb/p1jJAfzHtb3yxYA3lbxdXZ0DOKjL8UUUDAUXP
    uX5j4OQdNUJ0oHnT5vsuFQ==
"""


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    return _hmac(salt or bytes(32), b"HPKE-v1" + suite + label + secret)


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, size: int) -> bytes:
    labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    # One block is enough: nothing here is longer than a hash.
    return _hmac(prk, labelled + b"\x01")[:size]


def _x25519_shared(private: bytes, enc: bytes) -> bytes:
    """Decap of DHKEM(X25519, HKDF-SHA256): RFC 9180, section 4.1."""
    key = X25519PrivateKey.from_private_bytes(private)
    dh = key.exchange(X25519PublicKey.from_public_bytes(enc))
    suite = b"KEM" + (0x20).to_bytes(2, "big")
    prk = _extract(suite, b"", b"eae_prk", dh)
    return _expand(suite, prk, b"shared_secret", enc + key.public_key().public_bytes_raw(), 32)


def _xwing_shared(seed: bytes, enc: bytes) -> bytes:
    """Decapsulate of X-Wing: SHA3-256(ss_M ‖ ss_X ‖ ct_X ‖ pk_X ‖ the drawing of an X-wing)."""
    expanded = hashlib.shake_256(seed).digest(96)
    lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    classical = X25519PrivateKey.from_private_bytes(expanded[64:])
    point = enc[1088:]
    return hashlib.sha3_256(
        lattice.decapsulate(enc[:1088])
        + classical.exchange(X25519PublicKey.from_public_bytes(point))
        + point
        + classical.public_key().public_bytes_raw()
        + b"\\.//^\\"
    ).digest()


def _opened(
    kem: int, aead: int, shared: bytes, *, info: bytes, aad: bytes, ct: bytes, key_bytes: int
) -> bytes:
    """Key schedule of base mode (RFC 9180, section 5.1) and the first Open with AES-GCM."""
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (kem, 1, aead))
    context = (
        b"\x00"
        + _extract(suite, b"", b"psk_id_hash", b"")
        + _extract(suite, b"", b"info_hash", info)
    )
    secret = _extract(suite, shared, b"secret", b"")
    key = _expand(suite, secret, b"key", context, key_bytes)
    nonce = _expand(suite, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ct, aad)


def _decapsulated(key: HpkePrivateKey, ciphertext: bytes) -> tuple[int, bytes, bytes]:
    """KEM number, shared secret and what follows the encapsulation."""
    if key.suite is HpkeSuite.X25519:
        return 0x20, _x25519_shared(key.data, ciphertext[:32]), ciphertext[32:]
    return 0x647A, _xwing_shared(key.data, ciphertext[:1120]), ciphertext[1120:]


@pytest.mark.parametrize(
    ("aead", "private", "enc", "ct"),
    [
        (hpke.AEAD.AES_128_GCM, A_1_PRIVATE, A_1_ENC, A_1_CT),
        (hpke.AEAD.CHACHA20_POLY1305, A_2_PRIVATE, A_2_ENC, A_2_CT),
    ],
)
def test_the_library_opens_the_vectors_of_rfc_9180(
    aead: hpke.AEAD, private: str, enc: str, ct: str
) -> None:
    # The public class takes no associated data, which every vector has: hence the private call.
    decrypt = hpke.rust_openssl.hpke._decrypt_with_aad
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, aead)
    key = X25519PrivateKey.from_private_bytes(bytes.fromhex(private))
    assert decrypt(suite, bytes.fromhex(enc + ct), key, INFO, COUNT_0) == TEXT


def test_the_oracle_of_these_tests_gives_the_vectors_of_rfc_9180_too() -> None:
    shared = _x25519_shared(bytes.fromhex(A_1_PRIVATE), bytes.fromhex(A_1_ENC))
    assert shared.hex() == A_1_SHARED
    ct = bytes.fromhex(A_1_CT)
    assert _opened(0x20, 1, shared, info=INFO, aad=COUNT_0, ct=ct, key_bytes=16) == TEXT


def test_a_private_key_of_the_rfc_has_the_public_key_of_the_rfc() -> None:
    key = HpkePrivateKey(HpkeSuite.X25519, bytes.fromhex(A_1_PRIVATE))
    assert key.public.data.hex() == A_1_PUBLIC


def test_a_seed_expands_to_the_keys_of_the_hybrids_draft() -> None:
    # ML-KEM rejects implicitly: with any other key pair the shared secret would be another.
    ciphertext = base64.b64decode(XWING_CT)
    assert _xwing_shared(bytes.fromhex(XWING_SEED), ciphertext).hex() == XWING_SHARED
    key = HpkePrivateKey(HpkeSuite.HYBRID, bytes.fromhex(XWING_SEED))
    expanded = hashlib.shake_256(key.data).digest(96)
    lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).public_key().public_bytes_raw()
    classical = X25519PrivateKey.from_private_bytes(expanded[64:]).public_key().public_bytes_raw()
    assert key.public.data == lattice + classical


@suites
def test_what_is_sealed_opens_by_an_independent_decapsulation(suite: HpkeSuite) -> None:
    key = KEYS[suite]
    kem, shared, ct = _decapsulated(key, key.public.seal(TEXT, info=INFO))
    assert _opened(kem, 2, shared, info=INFO, aad=b"", ct=ct, key_bytes=32) == TEXT


@suites
def test_sealing_is_fresh_each_time_and_as_long_as_the_suite_says(suite: HpkeSuite) -> None:
    key = KEYS[suite]
    first, second = (key.public.seal(TEXT, info=INFO) for _ in range(2))
    assert first != second
    assert len(first) == len(TEXT) + suite.overhead
    assert key.open(first, info=INFO) == key.open(second, info=INFO) == TEXT


@suites
def test_another_key_or_context_or_a_cut_opens_nothing(suite: HpkeSuite) -> None:
    key = KEYS[suite]
    ciphertext = key.public.seal(TEXT, info=INFO)
    other = HpkePrivateKey.generate(suite)
    for opener, data, info in (
        (other, ciphertext, INFO),
        (key, ciphertext, INFO + b"!"),
        (key, ciphertext[:-1], INFO),
        (key, ciphertext[: suite.overhead - 1], INFO),
        (key, b"", INFO),
    ):
        with pytest.raises(CryptoError, match="do not open"):
            opener.open(data, info=info)


@suites
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_altered_byte_is_accepted(suite: HpkeSuite, data: st.DataObject) -> None:
    key = KEYS[suite]
    ciphertext = bytearray(key.public.seal(TEXT, info=INFO))
    place = data.draw(st.integers(0, len(ciphertext) - 1))
    ciphertext[place] ^= data.draw(st.integers(1, 255))
    # X25519 ignores the top bit of a point; the KEM's context does not.
    with pytest.raises(CryptoError):
        key.open(bytes(ciphertext), info=INFO)


@suites
def test_keys_survive_their_text_form_and_a_file(suite: HpkeSuite, tmp_path: Path) -> None:
    key = KEYS[suite]
    (tmp_path / "hpke.key").write_text(key.text + "\n")
    (tmp_path / "hpke.pub").write_text(key.public.text + "\n")
    assert HpkePrivateKey.read(tmp_path / "hpke.key") == key
    public = HpkePublicKey.read(tmp_path / "hpke.pub")
    assert public == key.public
    assert public.fingerprint == hashlib.sha256(key.public.text.encode()).hexdigest()


@suites
def test_a_private_key_shows_in_no_text_but_its_own(suite: HpkeSuite) -> None:
    key = KEYS[suite]
    secret = base64.b64encode(key.data).decode()
    assert secret in key.text
    assert secret not in repr(key)
    assert repr(key.data) not in repr(key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x25519",
        "AAAA",
        "rsa AAAA",
        "x25519 not-base64!",
        "x25519 AAAA",
        "mlkem768-x25519 " + base64.b64encode(bytes(32)).decode(),
        "x25519 AAAA AAAA",
        "mlkem768-x25519 " + base64.b64encode(b"\xff" * 1216).decode(),
    ],
)
def test_what_is_no_public_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(CryptoError) as caught:
        HpkePublicKey.parse(text)
    assert "AAAA" not in str(caught.value)


@settings(deadline=None)
@given(text=st.one_of(st.text(max_size=80), st.binary(max_size=80).map(repr)))
def test_any_text_is_a_key_or_an_error_of_ours(text: str) -> None:
    for kind in (HpkePublicKey, HpkePrivateKey):
        with pytest.raises(CryptoError):
            kind.parse(text)


def test_a_private_key_of_another_length_is_refused() -> None:
    with pytest.raises(CryptoError, match="31 bytes"):
        HpkePrivateKey(HpkeSuite.HYBRID, bytes(31))


@suites
def test_a_degenerate_public_key_takes_no_secret(suite: HpkeSuite) -> None:
    # All zeros: X25519 with a point of small order, whose shared secret anyone knows.
    with pytest.raises(CryptoError, match="degenerate"):
        HpkePublicKey(suite, bytes(suite.public_bytes)).seal(TEXT, info=INFO)


def test_a_missing_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="provision"):
        HpkePublicKey.read(tmp_path / "server-hpke.pub")

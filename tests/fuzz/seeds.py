"""Makes the corpus: for each target a few small valid inputs, and some of each kind of invalid.

    python -m tests.fuzz.seeds

They hold nothing of any patient, and keys of the tests alone. What was sealed or signed by a curve
is random, so a second run changes some of the files; inputs that a fuzzer found are left alone.
"""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from flwr.app import Array, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from PIL import Image

from fdfed.audit.line import Head, write_line
from fdfed.consortium import PolicyStep, SigningPolicy, lineage_digests, policy_statement, sign
from fdfed.evaluation import Aggregate, write_results
from fdfed.evaluation.results import ImageRow, RoundRecord, RunResults, SiteResult, SiteRound
from fdfed.exchange import (
    BlindingSecret,
    CotangentFrame,
    HpkeSuite,
    PrototypeFrame,
    StepKey,
    open_session,
)
from fdfed.exchange import exchange_pb2 as pb
from fdfed.networks import create_network
from fdfed.roster import Roster, sign_roster
from fdfed.training.model_file import ModelHeader
from fdfed.wire import (
    EvaluateInstruction,
    EvaluateResult,
    MaskedResult,
    Prepare,
    Prepared,
    Ready,
    ReadyRequest,
    RosterInForce,
    RosterRelay,
    SecretOffer,
    SecretRequest,
    TrainInstruction,
    TrainResult,
)
from fdfed_server.flower.surface import control_token
from fdfed_server.run_state import Best, GlobalModel, RunState, save_state
from fdfed_server.status import SiteStatus, Status
from tests.fuzz import parties
from tests.fuzz.parties import NONCE, PLAN, RUN, SITES
from tests.fuzz.target import CORPUS, scratch

Seeds = Iterator[tuple[str, str, bytes]]
"""Target, name of the input, and the input."""

TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7)}
VECTOR = np.arange(8, dtype=np.float32)
KEY = StepKey(RUN, 1, 1, 2)


def exchange() -> Seeds:
    """Openings, sealed frames, and what they hold."""
    for suite in HpkeSuite:
        public = parties.hpke_key(0, suite).public
        _, hello = open_session(public, site="ad", challenge=NONCE)
        yield "exchange-opening", suite.value, pb.SiteFrame(hello=hello).SerializeToString()
    yield "exchange-opening", "unsealed", pb.SiteFrame(hello=pb.Hello()).SerializeToString()
    for dtype in (np.float32, np.float64):
        sent = PrototypeFrame(KEY, VECTOR.astype(dtype), np.array([True, False]))
        content = pb.SiteContent(prototypes=sent.to_proto()).SerializeToString()
        site, _ = parties.session_pair()
        frame = pb.SiteFrame(sealed=site.seal(content)).SerializeToString()
        yield "exchange-sealed", np.dtype(dtype).name, frame
        yield "exchange-prototypes", np.dtype(dtype).name, content
        terms = np.array([0.5, np.nan])
        answer = CotangentFrame(KEY, VECTOR.astype(dtype), terms, terms, 1).to_proto()
        content = pb.HubContent(cotangents=answer).SerializeToString()
        yield "exchange-answer", np.dtype(dtype).name, content
    later = pb.Sealed(counter=3, length=4, body=bytes(20))
    yield "exchange-sealed", "later", pb.SiteFrame(sealed=later).SerializeToString()
    spoilt = PrototypeFrame(KEY, np.full(4, np.nan), np.ones(1, np.bool_))
    payload = pb.PrototypePayload(vector=spoilt.vector.tobytes(), valid=b"\x01")
    nan = pb.Prototypes(key=KEY.to_proto(), element_type=2, payload=payload.SerializeToString())
    yield "exchange-prototypes", "nan", pb.SiteContent(prototypes=nan).SerializeToString()
    for content_name, content in (
        ("refusal", pb.HubContent(refusal=pb.Refusal(code="CODE_TOO_LATE", key=KEY.to_proto()))),
        ("welcome", pb.HubContent(welcome=pb.Welcome(protocol_version=2, site="ad"))),
    ):
        yield "exchange-answer", content_name, content.SerializeToString()


def trust() -> Seeds:
    """Keys, roster, offers, certificates."""
    for suite in HpkeSuite:
        key = parties.hpke_key(1, suite)
        yield "hpke-key", f"public-{suite.value}", key.public.text.encode()
        yield "hpke-key", f"seed-{suite.value}", f"{suite.value} {'AQ' * 21}A=".encode()
        if suite is HpkeSuite.X25519:
            yield "hpke-ciphertext", suite.value, key.public.seal(b"secret", info=b"")
    yield "hpke-key", "small-order", b"x25519 " + b"A" * 43 + b"="
    text = parties.ROSTER.text
    yield "roster", "two-sites", text
    yield "roster", "empty", b"{}"
    yield "roster", "old", b'{"sites": {"ad": {"node_public_key": "ecdsa"}}}'
    signatures, policy = sign_roster(text, parties.signing_key(0)), parties.POLICY.text.encode()
    yield "signed-roster", "text", text
    yield "signed-roster", "followed", _followed()
    yield "signed-roster", "unsigned", text + b"\n--\n[]"
    yield "signed-roster", "all", b"\n--\n".join((text, signatures, policy))
    for direction, number in (("out", 1), ("in", 2)):
        key = parties.signing_key(number)
        line = write_line(direction, "trained", {}, number=number, previous="0" * 64, key=key)
        yield "audit-line", direction, line
    yield "audit-line", "head", Head(7, "0" * 64).to_text(parties.signing_key(1))
    made = parties.member("ad").offer(BlindingSecret(b"s" * 32, epoch=7), parties.CONTEXT, SITES)
    yield "group-offer", "offer", made.encode()
    yield "group-offer", "unsealed", made.replace('"tnbc":"', '"tnbc":"YWFh').encode()
    authority = _certificate("test CA", 3, ca=True)
    site = _certificate("tnbc", 2)
    yield "certificate", "site", site
    yield "certificate", "expired", _certificate("tnbc", 2, until=2001)
    yield "certificate", "authority", authority
    yield "certificate", "both", site + b"\n--\n" + authority
    yield "certificate", "another-key", _certificate("tnbc", 4)


def _followed() -> bytes:
    """A roster whose policy followed upon another one."""
    key, new = parties.signing_key(0), parties.signing_key(5)
    first = PolicyStep(policy=parties.POLICY)
    policy = SigningPolicy(threshold=1, signers={"new": new.public_key().public_bytes_raw().hex()})
    statement = policy_statement(lineage_digests([first])[0], policy)
    step = PolicyStep(policy=policy, signatures=(sign(statement, signer="consortium", key=key),))
    text = Roster(policies=(first, step)).text
    return text + b"\n--\n" + sign_roster(text, new, signer="new")


def _certificate(name: str, number: int, *, ca: bool = False, until: int = 2999) -> bytes:
    common = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    certificate = (
        x509.CertificateBuilder(issuer, common, parties.elliptic_key(number).public_key())
        .serial_number(number)
        .not_valid_before(dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(until, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(parties.elliptic_key(3), hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


def records() -> Seeds:
    """Each message as a record, one as Flower's objects, and packed weights."""
    messages = _messages()
    for number, message in enumerate(messages):
        parts = message.to_record()
        name = type(message).__name__.lower()
        yield "record", name, bytes([number]) + recorddict_to_proto(parts).SerializeToString()
    yield "flower-objects", "prepared", _objects(messages[1].to_record())
    yield "flower-objects", "trained", _objects(messages[5].to_record())
    flat = np.concatenate([value.reshape(-1).view(np.uint8) for value in TENSORS.values()])
    listed = json.dumps([[n, v.dtype.name, list(v.shape)] for n, v in TENSORS.items()])
    yield "weights", "two", listed.encode() + b"\n" + Array(flat).data
    yield "weights", "none", b"[]\n" + Array(np.zeros(0, np.uint8)).data
    yield "weights", "empty-tensor", b'[["a","float64",[0,3]]]\n' + Array(np.zeros(0, "u1")).data
    yield "weights", "halves", b'[["a","float16",[2]]]\n' + Array(np.ones(4, "u1")).data


def _messages() -> list[object]:
    scores = Aggregate(10, 1, 0.7, 0.1, 0.6, 0.7, 0.8)
    same = {"run_id": RUN, "server_round": 3}
    vectors = {name: np.array([0.5, 0.25]) for name in ("alpha", "fd", "exch", "valid")}
    counts = {"num_train": 5, "num_validation": 2, "num_test": 2, "num_empty": 0}
    return [
        Prepare(plan=PLAN, run_id=RUN),
        Prepared(site="ad", phantoms=True, version="0.1", **counts),
        SecretRequest(**same, attempt=1, members=SITES, after_epoch=4),
        SecretOffer(epoch=7, text="{}"),
        TrainInstruction(
            **same,
            plan=PLAN,
            attempt=1,
            phase=2,
            total_examples=9,
            best_round=2,
            alpha=np.zeros(2),
            target=np.array([np.nan, 1.0]),
            weights=TENSORS,
        ),
        TrainResult(
            **same,
            **vectors,
            attempt=1,
            num_examples=4,
            loss_seg=0.5,
            seconds=1.5,
            weights=TENSORS,
        ),
        EvaluateInstruction(**same, plan=PLAN, part="test", weights=TENSORS),
        EvaluateResult(**same, part="validation", dice=scores, iou=scores),
        RosterRelay(roster=parties.ROSTER.text.decode(), signatures="[]"),
        RosterInForce(version=1, digest="d" * 64),
        ReadyRequest(**same, attempt=1),
        Ready(announcement="{}"),
        MaskedResult(**same, attempt=1, seconds=1.0, values=np.arange(3, dtype=np.uint64)),
    ]


def _objects(parts: RecordDict) -> bytes:
    message: Message = make_message(
        metadata=Metadata(1, "", 2, 1, "", "", 0.0, 60.0, "train"), content=parts
    )
    nested = get_all_nested_objects(message)
    order = [message.object_id, *(key for key in nested if key != message.object_id)]
    contents = [(key, nested[key].deflate()) for key in order]
    return b"".join(key.encode() + len(c).to_bytes(4, "big") + c for key, c in contents)


def files() -> Seeds:
    """Plans, settings, models, states, results."""
    yield "plan", "plan", PLAN.to_json().encode()
    yield "plan", "preset", b'{"preset": "paper", "alpha": {"rate": 0.1}}'
    yield "settings", "site", b'site = "ad"\nserver = "h"\nmin_sites = 3\nstate = "s"\n'
    yield "settings", "federation", b'[server]\nhosts = ["h"]\n[run]\nsites = ["ad"]\nrounds = 3\n'
    network = create_network("unet", in_channels=1, width=1, norm="group", size=32)
    header = ModelHeader(
        network="unet", width=1, norm="group", in_channels=1, size=32, taps=network.tap_names
    )
    tensors = {name: torch.zeros_like(t) for name, t in network.state_dict().items()}
    metadata = {"fdfed": header.model_dump_json()}
    yield "model-file", "unet", safetensors.torch.save(tensors, metadata=metadata)
    one = {"w": torch.zeros(2)}
    yield "model-file", "no-header", safetensors.torch.save(one)
    yield "model-file", "wrong-weights", safetensors.torch.save(one, metadata=metadata)
    record = {"local.a": torch.zeros(2, 2), "optimizer.b": torch.zeros(2, dtype=torch.int64)}
    yield "site-state", "record", safetensors.torch.save(record, metadata={"phase": "2"})
    yield "site-state", "no-phase", safetensors.torch.save(record)
    yield "status", "status", _status()
    yield "results", "results", _results()
    yield "run-state", "state", _run_state()
    yield "marker", "marker", b'{"seed": 1, "images": 4}'


def _status() -> bytes:
    sites = {"ad": SiteStatus(online=True, num_train=5, val_dice=0.5)}
    return json.dumps(asdict(Status(pid=1, time=1.0, activity="finished", sites=sites))).encode()


def _rounds() -> tuple[RoundRecord, ...]:
    return (RoundRecord(round=1, phase=1, sites={"ad": SiteRound(loss_seg=1.5)}, seconds=2.5),)


def _results() -> bytes:
    results = RunResults(
        sites={"ad": SiteResult(dice=0.5, iou=0.3, n_train=7, n_val=1, n_test=2)},
        rounds=_rounds(),
        alpha={"Bot": 0.01},
        config=PLAN.model_dump(mode="json"),
        versions={"python": "3.11"},
    )
    row = ImageRow(site="ad", name="a", dice=0.5, iou=0.3, foreground_pixels=3, empty=False)
    with scratch() as folder:
        write_results(folder / "results.json", results, per_image=[row])
        return json.dumps(json.loads((folder / "results.json").read_bytes())).encode()


def _run_state() -> bytes:
    model = GlobalModel(weights=TENSORS, alpha=np.zeros(2), target=np.ones(2))
    best = Best(server_round=1, score=0.5, model=model)
    state = RunState(
        plan=PLAN, run_id=RUN, completed_rounds=1, model=model, best=best, history=_rounds()
    )
    with scratch() as folder:
        save_state(folder, state)
        document = json.loads((folder / "state.json").read_bytes())
        tensors = (folder / document["model_file"]).read_bytes()
    document["model_file"] = document["best_file"] = "t"
    return json.dumps(document).encode() + b"\n" + tensors


def pictures() -> Seeds:
    """Noise of six by five pixels in every accepted form, and patients."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (5, 6), dtype=np.uint8)
    mask = ((grey > 128) * 255).astype(np.uint8)
    colour = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    made = {
        "grey": Image.fromarray(grey),
        "mask": Image.fromarray(mask),
        "bits": Image.fromarray(mask).convert("1"),
        "colour": Image.fromarray(colour),
        "palette": Image.fromarray(colour).convert("P", colors=4),
        "alpha": Image.fromarray(colour).convert("RGBA"),
        "deep": Image.fromarray(grey.astype(np.uint16) * 257),
    }
    for name, picture in made.items():
        yield "picture", f"{name}-png", _saved(picture, "PNG")
    for kind in ("JPEG", "BMP"):
        for name in ("grey", "mask", "colour"):
            yield "picture", f"{name}-{kind.lower()}", _saved(made[name], kind)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield (
            "picture",
            f"grey-tiff-{compression}",
            _saved(made["grey"], "TIFF", compression=compression),
        )
    pages = {"save_all": True, "append_images": [made["mask"]]}
    yield "picture", "pages-tiff", _saved(made["grey"], "TIFF", **pages)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "picture", "turned-jpeg", _saved(made["grey"], "JPEG", exif=exif)
    yield "patients", "two", b"image,mask,patient,subsite\na.png,a.png,p1,s\nb.png,,p2,\n"
    yield "patients", "faults", b"image,patient\na.png,\nb.png,p\nb.png,q\nc.png,r\n"
    yield "patients", "quoted", b'\xef\xbb\xbfpatient,image\n"p ""1""","a.png"\n'
    yield "patients", "no-column", b"a;b\n1;2\n"


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def surface() -> Seeds:
    """Heads of requests."""
    yield "doors", "health", b"GET\n/health\n"
    yield "doors", "push", b"POST\n/v1/fleet/push-object\ncontent-length:100\n"
    yield "doors", "chunked", b"POST\n/v1/fleet/push-object\ntransfer-encoding:chunked\n"
    yield "doors", "other", b"POST\n/v1/control/start-run\ncontent-length:1\n"
    token = control_token(b"s" * 32).encode()
    yield "doors", "control", b"POST\n/v1/control/start-run\nx-fdfed-control:" + token


def main() -> None:
    """Writes every seed into its target's folder."""
    for group in (exchange, trust, records, files, pictures, surface):
        for target, name, data in group():
            path: Path = CORPUS / target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


if __name__ == "__main__":
    main()

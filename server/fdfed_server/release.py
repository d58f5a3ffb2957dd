"""A finished run's model leaves the coordinator: approved by a person, signed, with its card."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from fdfed.audit import AuditLog
from fdfed.errors import InvalidInput, RefusedByPolicy
from fdfed.evaluation.model_card import card_text, model_card
from fdfed.evaluation.results_files import load_results
from fdfed.files.atomic_file import write_text
from fdfed.release import CARD, CARD_TEXT, MODEL, Release, file_sha256, sign_release
from fdfed.training.model_file import read_header


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What would be released, for a person to look at."""

    model: Path
    model_sha256: str
    card: dict[str, Any]
    text: str
    """The card as Markdown."""


def candidate(state: Path) -> Candidate:
    """The model of the finished run in a coordinator's state folder.

    Raises:
        InvalidInput: if no run has finished there, it has no common model, or its files do not
            belong together.
    """
    folder = state / "results"
    if not (folder / "results.json").exists():
        raise InvalidInput(f"{folder} holds no results; a run leaves them when it has ended")
    results = load_results(folder / "results.json")
    if results.final_model is None:
        raise InvalidInput(
            "the run has no common model (strategy = local), so there is none to release"
        )
    model = folder / results.final_model
    digest = file_sha256(model)
    card = model_card(results, read_header(model), model_sha256=digest)
    return Candidate(model=model, model_sha256=digest, card=card, text=card_text(card, results))


def release(
    found: Candidate,
    out: Path,
    *,
    approved: str,
    key: ed25519.Ed25519PrivateKey,
    audit: AuditLog,
) -> Release:
    """Writes the signed release into the new folder `out`.

    Args:
        approved: SHA-256 of the model that a person approved.

    Raises:
        RefusedByPolicy: if that is not this model.
        InvalidInput: if `out` exists, or the model changes under our hands.
    """
    if approved != found.model_sha256:
        audit.append("out", "release", decision="refused", sha256=found.model_sha256)
        raise RefusedByPolicy(
            f"the hash {approved[:16]}… is not that of the model that is shown; nothing is "
            "released. Look at its card, and give its whole hash"
        )
    if out.exists():
        raise InvalidInput(f"{out} exists already; give --out a new folder")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700, parents=True)
    shutil.copyfile(found.model, part / MODEL)
    write_text(part / CARD, json.dumps(found.card, indent=2, ensure_ascii=False) + "\n")
    write_text(part / CARD_TEXT, found.text)
    signed = sign_release(part, key)
    if signed.model_sha256 != approved:
        shutil.rmtree(part)
        raise InvalidInput(f"{found.model} was changed while it was being released; try again")
    # The line first: what has left is in the log, whatever happens next.
    audit.append("out", "release", decision="allowed", sha256=approved)
    part.rename(out)
    return signed

"""The hospital's agent: its images, its identity, its two connections, both outward."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final

from fdfed.audit import AuditLog
from fdfed.config import RunPlan
from fdfed.data import SiteData, check_site_folder, open_planned, write_planned_phantoms
from fdfed.errors import DataError, InvalidInput
from fdfed.exchange import HpkePublicKey
from fdfed.membership.expiry import expiry_notice
from fdfed.training.device import resolve_device
from fdfed.training.site_state import SiteStore
from fdfed_client.app import build_client_app
from fdfed_client.baseline import LocalBaseline
from fdfed_client.config import SiteConfig
from fdfed_client.drain import Drain
from fdfed_client.egress import EgressGate, FrameGate
from fdfed_client.exchange import ExchangeStream
from fdfed_client.exchange_identity import SiteIdentity
from fdfed_client.flower import Presence, run_node
from fdfed_client.group import GroupSecrets
from fdfed_client.local_model import PrivacyAtSite
from fdfed_client.local_report import LocalReport
from fdfed_client.masking import Masking, signer_of
from fdfed_client.membership import Membership, read_site_key
from fdfed_client.plan_approval import Ask, PlanApproval, PlanRecords
from fdfed_client.site import Site
from fdfed_client.watching import watched

log = logging.getLogger(__name__)

_REPLY_SLACK_SECONDS: Final = 10.0
"""The hub answers at the step's deadline; what comes later than this beyond it is lost."""


def data_folder(config: SiteConfig, data: Path | None, *, phantoms: bool) -> Path:
    """The folder that holds a folder of this site's name.

    Args:
        data: from the command line; else the configuration's.
        phantoms: the user asked for built-in phantoms instead of images.

    Raises:
        DataError: if there is no folder.
        InvalidInput: if phantoms were asked for beside one.
    """
    chosen = data or config.data
    if phantoms:
        if data is not None:
            raise InvalidInput("--data and --phantoms exclude each other; give one of them")
        return config.state / "phantoms"
    if chosen is None:
        raise DataError(
            f"{config.site} has no images: give --data DIR, where DIR/{config.site}/images and "
            f"DIR/{config.site}/masks are, or set data in site.toml. To try the system without "
            "images, give --phantoms."
        )
    # The folder of all sites, or the site's own one: both are how people keep their images.
    if not (chosen / config.site).is_dir() and (chosen / "images").is_dir():
        if chosen.resolve().name != config.site:
            raise DataError(
                f"{chosen} holds images, but is not named {config.site}; rename it, or give the "
                f"folder above it, with the site's folder named {config.site}"
            )
        return chosen.resolve().parent
    return chosen


def run_agent(
    config: SiteConfig,
    *,
    data: Path | None,
    phantoms: bool,
    stop: threading.Event,
    approve: bool = False,
    ask: Ask | None = None,
    on_step: Callable[[int, int, int], None] | None = None,
    on_event: Callable[[str], None] | None = None,
) -> None:
    """Serves the site's coordinator until `stop` is set. The caller holds the lock of the site's
    state folder.

    Args:
        approve: train for a plan only when a person has approved it.
        ask: asks the person at this terminal.

    Raises:
        DataError: if there are no usable images, before anything connects.
        ConnectionFailed: if the coordinator does not accept the site's identity.
        PrivacyBudgetExceeded: once stopped, if a round was refused because the budget is spent.
        InvalidInput: if a file that `site.toml` names is missing.
    """
    folder = data_folder(config, data, phantoms=phantoms)
    if not config.certificate.exists():
        raise InvalidInput(
            f"{config.site} is not enrolled yet: {config.certificate} does not exist. Make its "
            f"keys, and ask for it, with `fdfed-client enrol {config.certificate.parent}`"
        )
    if not phantoms:
        check_site_folder(folder / config.site).raise_findings()
    pinned, membership = HpkePublicKey.read(config.server_hpke_key), Membership.of(config)
    group = GroupSecrets.over(membership, config)
    log.info(
        "layers: mutual TLS; prototypes are sealed (%s) to the coordinator's key %s…, and blinded "
        "with a secret of the sites; weights: %s; no differential privacy and no ε, unless a plan "
        "has [run.privacy], which a line of its own then says",
        pinned.suite.value,
        pinned.fingerprint[:16],
        _weights_layer(config),
    )
    presence, drain = Presence(), Drain(stop, seconds=config.drain_seconds)

    def alive() -> None:
        presence.loop.beat()
        drain.check()

    with ExitStack() as stack:
        watchers = stack.enter_context(watched(config, membership=membership, presence=presence))
        key = read_site_key(config.signing_key)
        audit = stack.enter_context(
            AuditLog(config.state / "audit.log", key=key, watch=watchers.noted)
        )
        report = LocalReport(config.state / "local")
        baseline = None
        if config.local_baseline:
            told = _each(report.joined, watchers.joined)
            baseline = LocalBaseline(config.state / "alone", told=told)
            stack.callback(baseline.close)
        gate = EgressGate(config.site, config.policy, min_count=config.min_count, audit=audit)
        site = Site(
            config.site,
            lambda plan: _open(config, folder, plan, phantoms=phantoms),
            SiteStore(config.state / "rounds"),
            min_count=config.min_count,
            min_patients=config.min_patients,
            device=resolve_device(config.device),
            open_exchange=lambda plan: _exchange(
                config, plan, gate.frames, on_answer=watchers.metrics.swapped
            ),
            secret_of=group.secret_of,
            make_secret=group.make,
            take_roster=membership.adopt,
            masking=Masking(
                lambda: signer_of(membership.member),
                config.state / "masking",
                min_sites=config.min_masked_sites,
                required=config.require_masking,
            ),
            privacy=PrivacyAtSite(
                ledger=config.state / "privacy.json", max_epsilon=config.policy.max_epsilon
            ),
            on_step=_each(watchers.step_done, on_step, lambda *_: alive()),
            on_batch=alive,
            on_result=_each(
                report.add, watchers.answered, None if baseline is None else baseline.answered
            ),
        )
        stack.callback(site.close)
        approval = PlanApproval(
            config.policy,
            gate,
            PlanRecords(config.state),
            plan_key=lambda: membership.member.roster.roster.plan_key,
            audit=audit,
            required=approve or ask is not None,
            ask=ask,
            stop=stop,
            pulse=presence.loop,
        )
        run_node(
            build_client_app(
                site,
                admit_plan=approval.admit,
                at_work=nullcontext if baseline is None else baseline.site_at_work,
            ),
            gate=gate,
            server=config.fleet_address,
            root_certificates=_read(config.ca),
            private_key=_read(config.node_key),
            site=config.site,
            state=config.state,
            stop=stop,
            linger_seconds=config.drain_seconds,
            on_event=on_event or log.info,
            presence=presence,
            alone=True,
        )
    log.info("the audit log ends with the hash %s", audit.head)
    if site.budget_spent is not None:
        raise site.budget_spent


def _weights_layer(config: SiteConfig) -> str:
    """What happens to this site's updates, as far as it can say before it has a plan."""
    text = "a plan without masks is refused" if config.require_masking else "masked if the plan is"
    if config.min_masked_sites == 2:
        return f"{text}; min_masked_sites = 2: of two, each has the other's update all the same"
    return f"{text}, among {config.min_masked_sites} sites or more"


def _open(config: SiteConfig, folder: Path, plan: RunPlan, *, phantoms: bool) -> SiteData:
    if phantoms:
        write_planned_phantoms(plan, config.site, folder)
    images = open_planned(plan, config.site, folder)
    if plan.effective_loss == "fd+exch":
        _tell_of_patients(images, max(config.min_patients, plan.exchange.min_patients))
    return images


def _tell_of_patients(images: SiteData, floor: int) -> None:
    """Says what the floor by patients means for these images, where it is not obvious."""
    if not images.patients_known:
        log.warning(
            "no patients.csv: each image counts as a patient of its own, also for min_patients; "
            "with several images of one patient, a prototype may be that patient's alone"
        )
    if images.training_patient_count < floor:
        log.warning(
            "%d patient(s) in the training part, and min_patients is %d: no prototype of this site "
            "will ever be sent",
            images.training_patient_count,
            floor,
        )


def _each(*told: Callable[..., None] | None) -> Callable[..., None]:
    """Tells each of those that are there, in their order."""
    known = [tell for tell in told if tell is not None]

    def tell_all(*news: Any) -> None:
        for tell in known:
            tell(*news)

    return tell_all


def _identity(config: SiteConfig) -> SiteIdentity:
    """The site's identity as its files are now: a renewed certificate serves from the next stream
    on."""
    identity = SiteIdentity(
        certificate=_read(config.certificate),
        key=_read(config.key),
        ca_certificate=_read(config.ca),
        server_hpke_key=HpkePublicKey.read(config.server_hpke_key),
    )
    notice = expiry_notice("this site's certificate", identity.expires)
    if notice:
        log.warning("%s", notice)
    return identity


def _exchange(
    config: SiteConfig, plan: RunPlan, gate: FrameGate, *, on_answer: Callable[[float], None]
) -> ExchangeStream:
    _identity(config)  # what is wrong with the files is told now, not at the first step
    # A step waits once more for each of the steps that its last site may be behind.
    late = plan.exchange.max_staleness
    patience = (1 + late) * plan.exchange.deadline_seconds + _REPLY_SLACK_SECONDS
    return ExchangeStream(
        config.exchange_address,
        lambda: _identity(config),
        reply_seconds=patience,
        # A round without the term would be void: the hub waits as long for this site's first frame.
        round_wait_seconds=plan.exchange.deadline_seconds if plan.exchange.required else 0.0,
        max_staleness=late,
        gate=gate,
        on_answer=on_answer,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise InvalidInput(
            f"{path} cannot be read ({err.strerror}); it is one of the files that "
            "`fdfed-server provision` made for this site, and site.toml names it"
        ) from err

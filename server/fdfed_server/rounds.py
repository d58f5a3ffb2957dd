"""The round loop: asks the sites through Flower, folds their answers, keeps what is complete.

Flower's own loop cannot resume, waits in steps of three seconds and holds every reply at once;
this one polls a reply at a time, in the plan's order of sites, so that memory is one reply and the
sum is reproducible, and it saves the state after every round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid

from fdfed.errors import ConnectionFailed, PrivacyBudgetExceeded, QuorumNotMet, WireError
from fdfed.exchange import padded_layout
from fdfed.wire import (
    EvaluateInstruction,
    EvaluateResult,
    Part,
    Prepare,
    Prepared,
    ReadyRequest,
    TrainInstruction,
)
from fdfed_server.asking import WaitedFor, ask
from fdfed_server.flower import site_nodes
from fdfed_server.hub import ExchangeHub
from fdfed_server.lineage import keep_before_newcomers
from fdfed_server.observer import Observer
from fdfed_server.private_terms import stop_if_spent
from fdfed_server.ready_phase import READY_SECONDS, AttemptCounter, ReadySet, ready_set
from fdfed_server.roster_carrier import RosterCarrier
from fdfed_server.run_control import RunControl
from fdfed_server.run_state import GlobalModel, RunState, save_state
from fdfed_server.secret_relay import SecretRelay, asking_over
from fdfed_server.site_reply import SiteReply
from fdfed_server.strategy import Strategy
from fdfed_server.trained_round import TrainedRound

log = logging.getLogger(__name__)

_REMOVED: Final = "the consortium has removed it from the roster"
_GRACE_SECONDS: Final = 10.0
"""How long a round waits for a site that has just gone before it begins without it."""
_ROLL_CALLS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """A finished run."""

    state: RunState
    sites: Mapping[str, Prepared]
    test: Mapping[str, EvaluateResult]
    stopped: PrivacyBudgetExceeded | None = None
    """Why training ended before the plan's last round; whoever runs the loop raises it, after the
    results of the rounds before are written."""


class RoundLoop:
    """Drives one run from its current state to its end.

    Args:
        folder: where the state is kept after every round; None keeps nothing.
        poll_seconds: pause between two looks for a reply or a site.
        secrets: has the sites make a secret for each round that exchanges; None where it follows
            from the plan, as in a simulation.
        control: through which an operator pauses and stops the run; None where nobody does.
        rosters: brings sites the newest roster before a round; None where there is none.
    """

    def __init__(
        self,
        strategy: Strategy,
        hub: ExchangeHub,
        *,
        folder: Path | None,
        observer: Observer | None = None,
        poll_seconds: float = 0.05,
        secrets: SecretRelay | None = None,
        control: RunControl | None = None,
        rosters: RosterCarrier | None = None,
    ) -> None:
        self._strategy = strategy
        self._hub = hub
        self._folder = folder
        self._observer = observer or Observer()
        self._poll_seconds = poll_seconds
        self._secrets = secrets
        self._control = control
        self._rosters = rosters
        self._attempts = AttemptCounter(folder)
        self._prepared: dict[str, Prepared] = {}
        self._gone: frozenset[str] = frozenset()
        """Sites that the last round has waited for in vain."""
        self._pairs: Mapping[str, Mapping[str, float]] = {}

    def run(self, grid: Grid, state: RunState) -> RunOutcome:
        """Trains the remaining rounds, then scores the final model on the test parts.

        Raises:
            QuorumNotMet: if a round fails in every attempt. The last complete round is on disk.
            ConnectionFailed: if too few sites accept the plan.
            PrivacyBudgetExceeded: if a site's budget does not allow even the first round.
        """
        plan = self._strategy.plan
        self._observer.run_started(plan, state.completed_rounds)
        if state.completed_rounds:
            # A run that goes on does as its rounds do: a site that is gone for good cannot hold it.
            self._online(grid, state)
        else:
            self._join(grid, state, needed=lambda: len(self._strategy.sites))
        stopped: PrivacyBudgetExceeded | None = None
        while not state.finished:
            if self._control is not None:
                self._control.await_permission()
            try:
                state = self._round(grid, state)
            except PrivacyBudgetExceeded as err:
                if not state.completed_rounds:
                    raise
                log.error("%s", err)
                stopped = err
                break
            if self._folder is not None:
                keep_before_newcomers(self._folder, state)
                save_state(self._folder, state)
            self._observer.round_finished(state.history[-1])
        test = self._test(grid, state)
        self._observer.test_finished(test)
        return RunOutcome(state=state, sites=dict(self._prepared), test=test, stopped=stopped)

    def _round(self, grid: Grid, state: RunState) -> RunState:
        server_round, began = state.completed_rounds + 1, time.perf_counter()
        plan = self._strategy.plan
        for tried in range(1, plan.attempts + 1):
            masked = plan.aggregation == "masked"
            attempt = self._attempts.next(server_round) if masked else tried
            self._observer.round_started(server_round, plan.phase(server_round), attempt)
            nodes = self._online(grid, state)
            if tried > 1:
                nodes = self._roll_call(grid, state, nodes)
            try:
                trained = self._train(grid, state, server_round, attempt, nodes)
            except QuorumNotMet as err:
                self._observer.attempt_failed(server_round, attempt, str(err))
                if tried == plan.attempts:
                    raise
                continue
            evaluations = self._evaluate(grid, state, trained.model, server_round, nodes)
            seconds = time.perf_counter() - began
            return self._strategy.conclude(
                state, trained, evaluations, seconds=seconds, pairs=self._pairs
            )
        raise QuorumNotMet(f"round {server_round} was given no attempt")  # pragma: no cover

    def _train(
        self,
        grid: Grid,
        state: RunState,
        server_round: int,
        attempt: int,
        nodes: Mapping[str, int],
    ) -> TrainedRound:
        self._bring_roster(grid, nodes)
        ready = self._ready(grid, state, server_round, attempt, nodes)
        nodes = ready.nodes
        examples = {site: self._prepared[site].num_train for site in nodes}
        offer = self._offer(grid, state, server_round, attempt, nodes)
        instructions = self._strategy.configure_train(
            state, server_round, attempt, examples, offer=offer, masking_keys=ready.masking_keys
        )
        records = _encoded(instructions)
        with self._exchange_round(state, server_round, attempt, tuple(nodes)):
            asked = self._ask(grid, nodes, records, kind="train", group=server_round)
            began, replies = time.perf_counter(), WaitedFor(asked)
            trained = self._strategy.aggregate_train(
                state,
                server_round,
                attempt,
                examples,
                self._observed(replies, server_round),
                spool=None if self._folder is None else self._folder / "spool",
            )
            self._observer.updates_aggregated(
                server_round, time.perf_counter() - began - replies.seconds
            )
            return trained

    def _ready(
        self,
        grid: Grid,
        state: RunState,
        server_round: int,
        attempt: int,
        nodes: Mapping[str, int],
    ) -> ReadySet:
        """The sites of the attempt; without masks, all that are there."""
        plan = self._strategy.plan
        if plan.aggregation != "masked":
            return ReadySet(dict(nodes))
        return ready_set(
            partial(
                ask,
                grid,
                kind="query.ready",
                group=server_round,
                deadline_seconds=READY_SECONDS,
                poll_seconds=self._poll_seconds,
            ),
            ReadyRequest(run_id=state.run_id, server_round=server_round, attempt=attempt),
            nodes,
            quorum=self._strategy.quorum,
        )

    def _exchanges(self, server_round: int) -> bool:
        return self._strategy.has_exchange and self._strategy.plan.phase(server_round) == 2

    def _offer(
        self,
        grid: Grid,
        state: RunState,
        server_round: int,
        attempt: int,
        nodes: Mapping[str, int],
    ) -> str:
        """The secret for the attempt, sealed for each site; empty where none is needed."""
        if self._secrets is None or not self._exchanges(server_round):
            return ""
        return self._secrets.offer(
            asking_over(grid, nodes, poll_seconds=self._poll_seconds),
            run_id=state.run_id,
            server_round=server_round,
            attempt=attempt,
            sites=tuple(nodes),
        )

    def _bring_roster(self, grid: Grid, nodes: Mapping[str, int]) -> None:
        if self._rosters is not None:
            self._rosters.bring(asking_over(grid, nodes, poll_seconds=self._poll_seconds), nodes)

    def _observed(self, replies: Iterator[SiteReply], server_round: int) -> Iterator[SiteReply]:
        for reply in replies:
            self._observer.site_answered(reply.site, server_round, reply.failure)
            yield reply
            # Else it is in memory still while the next one arrives.
            del reply

    def _evaluate(
        self,
        grid: Grid,
        state: RunState,
        model: GlobalModel,
        server_round: int,
        nodes: Mapping[str, int],
    ) -> dict[str, EvaluateResult]:
        if not self._strategy.plan.is_evaluated(server_round):
            return {}
        instruction = self._strategy.configure_evaluate(state, model, server_round, "validation")
        return self._score(grid, state, dict.fromkeys(nodes, instruction), nodes, "validation")

    def _test(self, grid: Grid, state: RunState) -> dict[str, EvaluateResult]:
        nodes = self._online(grid, state)
        instructions = self._strategy.configure_test(state)
        asked = {site: instructions[site] for site in nodes}
        return self._score(grid, state, asked, nodes, "test")

    def _score(
        self,
        grid: Grid,
        state: RunState,
        instructions: Mapping[str, EvaluateInstruction],
        nodes: Mapping[str, int],
        part: Part,
    ) -> dict[str, EvaluateResult]:
        replies = self._ask(
            grid, nodes, _encoded(instructions), kind="evaluate", group=state.completed_rounds
        )
        results: dict[str, EvaluateResult] = {}
        for reply in replies:
            asked = instructions[reply.site]
            results |= self._strategy.aggregate_evaluate(
                state.run_id, asked.server_round, part, [reply]
            )
            if reply.site not in results:
                failure = reply.failure or f"its {part} scores are not of the agreed form"
                self._observer.site_answered(reply.site, asked.server_round, failure)
        return results

    @contextmanager
    def _exchange_round(
        self, state: RunState, server_round: int, attempt: int, sites: Sequence[str]
    ) -> Iterator[None]:
        plan, self._pairs = self._strategy.plan, {}
        if not self._exchanges(server_round):
            yield
            return
        self._hub.open_round(
            state.run_id,
            server_round,
            attempt,
            sites=sites,
            layout=padded_layout(self._strategy.layout),
            steps=plan.steps_per_round,
            deadline_seconds=plan.exchange.deadline_seconds,
            max_missed_steps=plan.exchange.max_missed_steps,
            max_staleness=plan.exchange.max_staleness,
            dtype=np.dtype(np.float64 if plan.precision == "fp64" else np.float32),
        )
        try:
            yield
        finally:
            self._pairs = self._hub.close_round()

    def _online(self, grid: Grid, state: RunState) -> dict[str, int]:
        """The sites of this round, prepared, in the plan's order; waits until they are a quorum."""
        strategy, waited_until = self._strategy, time.monotonic() + _GRACE_SECONDS
        nodes = self._present(grid)
        while time.monotonic() < waited_until and self._missing(nodes) - self._gone:
            time.sleep(self._poll_seconds)
            nodes = self._present(grid)
        # A site that stays away costs one wait, not one in every round.
        self._gone = self._missing(nodes)
        return self._join(grid, state, needed=lambda: strategy.quorum, nodes=nodes)

    def _missing(self, nodes: Mapping[str, int]) -> frozenset[str]:
        return frozenset(self._strategy.sites) - nodes.keys()

    def _join(
        self,
        grid: Grid,
        state: RunState,
        *,
        needed: Callable[[], int],
        nodes: dict[str, int] | None = None,
    ) -> dict[str, int]:
        """Waits for `needed()` sites, and has each that is new count its images.

        Args:
            nodes: the sites that have just been seen.
        """
        told: tuple[str, ...] = ()
        nodes = self._present(grid) if nodes is None else nodes
        while True:
            missing = tuple(site for site in self._strategy.sites if site not in nodes)
            if missing != told:
                told = missing
                self._observer.waiting_for(missing)
            if len(nodes) >= needed():
                break
            time.sleep(self._poll_seconds)
            nodes = self._present(grid)
        new = {site: node for site, node in nodes.items() if site not in self._prepared}
        refusals = self._prepare(grid, state, new)
        ready = {site: node for site, node in nodes.items() if site in self._prepared}
        quorum = self._strategy.quorum
        if len(ready) < quorum:
            raise ConnectionFailed(
                f"{len(ready)} site(s) accepted the plan, {quorum} are needed. "
                + "; ".join(f"{site}: {why}" for site, why in refusals.items())
                + ". The log of that site's agent says more; start the coordinator again when it "
                "is solved."
            )
        return ready

    def _roll_call(self, grid: Grid, state: RunState, nodes: Mapping[str, int]) -> dict[str, int]:
        """Of these sites those that answer, once they are a quorum.

        The SuperLink counts a site as online until its heartbeats are missed. Without a roll call a
        round that a lost site has failed would spend its other attempts within that time.
        """
        for _ in range(_ROLL_CALLS):
            records = dict.fromkeys(nodes, self._prepare_record(state))
            replies = self._ask(
                grid, nodes, records, kind="query.prepare", group=state.completed_rounds + 1
            )
            # One that answers with a failure is there; the attempt tells what it lacks.
            here = {reply.site: nodes[reply.site] for reply in replies if not reply.lost}
            if len(here) >= self._strategy.quorum:
                return here
            nodes = self._online(grid, state)
        return dict(nodes)

    def _present(self, grid: Grid) -> dict[str, int]:
        online = site_nodes(grid)
        return {site: online[site] for site in self._strategy.sites if site in online}

    def _prepare(self, grid: Grid, state: RunState, nodes: Mapping[str, int]) -> dict[str, str]:
        records = dict.fromkeys(nodes, self._prepare_record(state))
        refusals: dict[str, str] = {}
        for reply in self._ask(grid, nodes, records, kind="query.prepare", group=0):
            stop_if_spent(reply.site, reply.failure, state.completed_rounds + 1)
            try:
                prepared = self._check_prepared(reply)
            except WireError as err:
                refusals[reply.site] = str(err)
                continue
            self._prepared[reply.site] = prepared
            self._observer.site_prepared(prepared)
        return refusals

    def _prepare_record(self, state: RunState) -> RecordDict:
        return Prepare(
            plan=self._strategy.plan,
            plan_signature=self._strategy.plan_signature,
            run_id=state.run_id,
        ).to_record()

    def _check_prepared(self, reply: SiteReply) -> Prepared:
        if reply.record is None:
            raise WireError(reply.failure)
        prepared = Prepared.from_record(reply.record)
        if prepared.site != reply.site:
            raise WireError(f"it calls itself {prepared.site!r}, but its key belongs to this site")
        if prepared.phantoms != self._strategy.plan.phantoms:
            raise WireError("its images are phantoms and the plan's are not, or the reverse")
        if prepared.num_train < 1:
            raise WireError("it has no training image")
        return prepared

    def _ask(
        self,
        grid: Grid,
        nodes: Mapping[str, int],
        records: Mapping[str, RecordDict],
        *,
        kind: str,
        group: int,
    ) -> Iterator[SiteReply]:
        replies = ask(
            grid,
            nodes,
            records,
            kind=kind,
            group=group,
            deadline_seconds=self._strategy.plan.round_deadline_seconds,
            poll_seconds=self._poll_seconds,
        )
        for reply in replies:
            # A site that was removed meanwhile: what it had sent by then is not used.
            removed = reply.site not in self._strategy.sites
            yield SiteReply(site=reply.site, record=None, failure=_REMOVED) if removed else reply


def _encoded(
    instructions: Mapping[str, TrainInstruction] | Mapping[str, EvaluateInstruction],
) -> dict[str, RecordDict]:
    """The record of each site's instruction; sites with the same one share one encoding."""
    records: dict[int, RecordDict] = {}
    for instruction in instructions.values():
        if id(instruction) not in records:
            records[id(instruction)] = instruction.to_record()
    return {site: records[id(instruction)] for site, instruction in instructions.items()}

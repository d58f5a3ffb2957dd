"""The strategy: one object that computes the cross-site terms and aggregates weights and α.

It is pure: no network, no clock, and no file but those that a robust average spools and removes.
The exchange hub calls `cross_site_terms` for every step; the round loop calls `configure_train`,
`aggregate_train`, `configure_evaluate`, `aggregate_evaluate` and `conclude` for every round. The
names are Flower's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from fdfed.config import RunPlan
from fdfed.errors import QuorumNotMet, WireError
from fdfed.evaluation.results import RoundRecord, SiteRound, Traffic
from fdfed.exchange import TapLayout
from fdfed.layer_weights import aggregate as aggregate_alpha
from fdfed.layer_weights import starting_alpha, target_of, weighed_taps
from fdfed.privacy import ContributionLayout
from fdfed.strategies import Arrays, create_strategy
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import tap_losses
from fdfed.training.sharing import shared_names, take_tensors
from fdfed.training.step import layout_of
from fdfed.wire import (
    EvaluateInstruction,
    EvaluateResult,
    MaskedResult,
    Part,
    RestoredWeights,
    TrainInstruction,
    Weights,
)
from fdfed_server.aggregation import WeightedAverage
from fdfed_server.folding import check_quorum, fold_replies
from fdfed_server.masked_sum import MaskedSum
from fdfed_server.private_terms import terms_of_releases
from fdfed_server.robust_average import RobustAverage, open_average, robust_centre
from fdfed_server.run_state import UNKNOWN_SCORE, Best, GlobalModel, RunState, phase_2_of
from fdfed_server.selection import displaces
from fdfed_server.site_reply import Attempt, SiteReply
from fdfed_server.terms import Terms, cross_site_terms
from fdfed_server.trained_round import (
    Accepted,
    TrainedRound,
    masked_round,
    nbytes_of,
    plain_round,
)
from fdfed_server.update_bound import UpdateBound

_NOTHING: Final = np.empty(0, np.uint64)


class Strategy:
    """Federated averaging of weights and α, with the phases and the exchange of the plan.

    What the plan's `strategy` changes: `fedprox` adds a term at the site, `fedbn` keeps the
    normalisations there, `local` keeps everything there; `fdfed` is federated averaging with the
    loss `fd+exch`. One of an installed package may keep other tensors there, and may make something
    else of the mean (`fdfed.strategies.Averaging`).
    """

    def __init__(self, plan: RunPlan, *, plan_signature: str = "") -> None:
        self.plan = plan
        self.plan_signature = plan_signature
        self._removed: frozenset[str] = frozenset()
        network = initial_network(plan)
        names = shared_names(network, plan.strategy)
        self._averaging = create_strategy(plan.strategy, plan.server)
        self.layout: TapLayout = layout_of(network)
        self._weighed = weighed_taps(self.layout.names, plan.alpha)
        self._initial_weights = take_tensors(network, names)
        self._trained = frozenset(dict(network.named_parameters())) & frozenset(names)

    @property
    def taps(self) -> tuple[str, ...]:
        """The network's taps, in the order of every vector with one entry a tap."""
        return self.layout.names

    @property
    def sites(self) -> tuple[str, ...]:
        """The plan's sites, less those that the consortium has removed since."""
        return tuple(site for site in self.plan.sites if site not in self._removed)

    @property
    def quorum(self) -> int:
        """Sites whose weights must enter a round, of those that are left."""
        return self.plan.quorum_of(len(self.sites))

    def leave_out(self, removed: Collection[str]) -> None:
        """From now on the sites in `removed`, and no others, are waited for by nobody, and nothing
        that they sent enters a sum. Safe to call from another thread."""
        self._removed = frozenset(removed)

    @property
    def has_exchange(self) -> bool:
        """Whether the steps of phase 2 swap prototypes with the hub."""
        return self.plan.swaps_batches

    def initial_state(self, run_id: str) -> RunState:
        """The state before the first round: seeded weights, and α of the phase that comes first."""
        alpha = np.zeros(len(self.taps)) if self.plan.phase(1) == 1 else self._starting_alpha()
        model = GlobalModel(weights=self._initial_weights, alpha=alpha)
        best = Best(server_round=0, score=UNKNOWN_SCORE, model=model)
        return RunState(plan=self.plan, run_id=run_id, completed_rounds=0, model=model, best=best)

    def cross_site_terms(
        self, layout: TapLayout, vectors: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> Terms:
        """L_exch of every tap and its cotangents, for the sites of one step (Eq. 4)."""
        method = self.plan.method
        return cross_site_terms(
            layout, vectors, valid, form=method.form, bound=method.exchange_bound, eps=method.eps
        )

    def configure_train(
        self,
        state: RunState,
        server_round: int,
        attempt: int,
        examples: Mapping[str, int],
        *,
        offer: str = "",
        masking_keys: tuple[str, ...] = (),
    ) -> dict[str, TrainInstruction]:
        """One instruction a site; `examples` holds the training images of those that are asked."""
        instruction = TrainInstruction(
            plan=self.plan,
            plan_signature=self.plan_signature,
            run_id=state.run_id,
            server_round=server_round,
            attempt=attempt,
            phase=self.plan.phase(server_round),
            total_examples=sum(examples.values()),
            best_round=state.best.server_round,
            offer=offer,
            masking_keys=masking_keys,
            alpha=state.model.alpha,
            target=state.model.target,
            weights=state.model.weights,
        )
        if self.plan.privacy is not None:
            known = state.model.cotangents
            return {site: replace(instruction, cotangents=known.get(site)) for site in examples}
        if self._has_common_model:
            return dict.fromkeys(examples, instruction)
        return {
            site: replace(instruction, best_round=state.site_best.get(site, (0, 0.0))[0])
            for site in examples
        }

    def aggregate_train(
        self,
        state: RunState,
        server_round: int,
        attempt: int,
        examples: Mapping[str, int],
        replies: Iterable[SiteReply],
        *,
        spool: Path | None = None,
    ) -> TrainedRound:
        """Folds the replies in one by one, in the order given, and refuses what does not fit.

        Args:
            spool: folder for the updates of a robust average, which is made and removed again;
                None is a temporary one.

        Raises:
            InvalidInput: if the disk of a robust average is full; the state is untouched.
            QuorumNotMet: if fewer sites than the quorum entered, or under masks any of those that
                were asked did not; the state is untouched.
            PrivacyBudgetExceeded: if a site's privacy budget is spent; likewise.
        """
        asked = Attempt(
            plan=self.plan,
            layout=self.layout,
            run_id=state.run_id,
            server_round=server_round,
            number=attempt,
            examples=examples,
        )
        if self.plan.aggregation == "masked":
            return self._aggregate_masked(state, asked, replies)
        with open_average(
            self.plan, state.model.weights, measured=self._trained, spool=spool
        ) as average:
            accepted = fold_replies(
                asked,
                replies,
                average,
                self._bound(state, server_round),
                opened=lambda weights: self._opened(state, weights),
            )
            check_quorum(asked, accepted, self.quorum)
            return self._plain_round(state, asked, average, accepted)

    def _bound(self, state: RunState, server_round: int) -> UpdateBound | None:
        """What an update is held to; None where the plan wants no bound, or there is nobody whom
        it would protect: with one site, or no common weights."""
        plan = self.plan
        if plan.defence.update_bound == "off" or len(plan.sites) < 2 or not self._trained:
            return None
        return UpdateBound(
            plan,
            state.model.weights,
            trained=self._trained,
            history=state.history,
            server_round=server_round,
        )

    def _opened(self, state: RunState, sent: Arrays) -> Arrays:
        """A site's weights, from what it sent of them."""
        if self.plan.update_precision == "full":
            return sent
        return RestoredWeights(
            cast(Weights, sent),  # as received, they are
            state.model.weights,
            trained=self._trained,
            precision=self.plan.update_precision,
        )

    def _plain_round(
        self,
        state: RunState,
        asked: Attempt,
        average: WeightedAverage | RobustAverage,
        accepted: Accepted,
    ) -> TrainedRound:
        mean, exch = average.result(), accepted.stacked("exch")
        results = accepted.results.values()
        released = {site: r.released for site, r in accepted.results.items()}
        private = terms_of_releases(
            self.plan,
            self.layout,
            {site: release for site, release in released.items() if release is not None},
        )
        if self.plan.privacy is not None:
            exch = np.broadcast_to(private.pair_terms, exch.shape)
        proposals, shares = accepted.stacked("alpha"), accepted.shares
        losses = np.stack([tap_losses(self.plan, r.fd, r.exch) for r in results])
        if self.plan.aggregation == "robust":
            cut_of = self.plan.defence.cut_of
            proposals, losses = (robust_centre(rows, cut_of)[None] for rows in (proposals, losses))
            shares = np.ones(1)
        alpha, target = self._next_alpha(state, asked.server_round, proposals, losses, shares)
        weights, memory = self._averaging.advance(state.model.weights, mean, state.model.memory)
        model = GlobalModel(
            weights=weights,
            alpha=alpha,
            target=target,
            memory=memory,
            cotangents=private.cotangents,
        )
        return plain_round(
            asked,
            state.model,
            model,
            accepted,
            exch=exch,
            moved=bool(self._trained),
            drift=average.drift(mean) if self._trained else None,
        )

    def _aggregate_masked(
        self, state: RunState, asked: Attempt, replies: Iterable[SiteReply]
    ) -> TrainedRound:
        """The round of all sites of the attempt, or none: the sum of fewer is noise."""
        total = MaskedSum(ContributionLayout.of(state.model.weights, taps=len(self.taps)))
        accepted: dict[str, MaskedResult] = {}
        refused: dict[str, str] = {}
        for reply in replies:
            try:
                result = asked.masked(reply)
                total.fold(result.values)
            except WireError as err:
                refused[reply.site] = str(err)
                continue
            accepted[reply.site] = replace(result, values=_NOTHING)
            del reply, result
        lacking = [
            f"{site}: {refused.get(site, 'no reply')}" for site in asked.examples.keys() - accepted
        ]
        if lacking:
            raise QuorumNotMet(
                f"round {asked.server_round}, attempt {asked.number}: under masks every site of an "
                "attempt must answer; it is void, and trained anew "
                f"({'; '.join(sorted(lacking))})"
            )
        mean = total.mean(examples=sum(asked.examples.values()))
        alpha, target = self._next_alpha(
            state,
            asked.server_round,
            mean.measures.alpha[None],
            mean.measures.total[None],
            np.ones(1),
        )
        # In the state's own order, as a plain average has it.
        average = {name: mean.weights[name] for name in state.model.weights}
        weights, memory = self._averaging.advance(state.model.weights, average, state.model.memory)
        model = GlobalModel(weights=weights, alpha=alpha, target=target, memory=memory)
        return masked_round(asked, state.model, model, mean.measures, accepted)

    def configure_evaluate(
        self, state: RunState, model: GlobalModel, server_round: int, part: Part
    ) -> EvaluateInstruction:
        """The instruction to score `model`, made in `server_round`; the same for every site."""
        return EvaluateInstruction(
            plan=self.plan,
            plan_signature=self.plan_signature,
            run_id=state.run_id,
            server_round=server_round,
            part=part,
            weights=model.weights,
        )

    def configure_test(self, state: RunState) -> dict[str, EvaluateInstruction]:
        """What each site scores at the end: the best common model, or the site's own best."""
        common = self.configure_evaluate(state, state.best.model, state.best.server_round, "test")
        if self._has_common_model:
            return dict.fromkeys(self.plan.sites, common)
        return {
            site: replace(common, server_round=state.site_best.get(site, (0, 0.0))[0])
            for site in self.plan.sites
        }

    def aggregate_evaluate(
        self, run_id: str, server_round: int, part: Part, replies: Iterable[SiteReply]
    ) -> dict[str, EvaluateResult]:
        """The sites' own aggregates, checked; a site whose reply does not fit is left out."""
        results: dict[str, EvaluateResult] = {}
        for reply in replies:
            if reply.record is None:
                continue
            try:
                result = EvaluateResult.from_record(reply.record)
            except WireError:
                continue
            if (result.run_id, result.server_round, result.part) == (run_id, server_round, part):
                results[reply.site] = result
        return results

    def conclude(
        self,
        state: RunState,
        trained: TrainedRound,
        evaluations: Mapping[str, EvaluateResult],
        *,
        seconds: float,
        pairs: Mapping[str, Mapping[str, float]] | None = None,
    ) -> RunState:
        """The state after the round: new model, best so far, history.

        The best of a phase is by the unweighted mean over sites of validation Dice, and the run
        ends with the best weights of its last phase. With `phase_2_start = best` phase 2 begins
        with the best of phase 1. Source: section 3.2.1 of the paper, one checkpoint a phase.
        """
        sites = {
            site: _with_scores(entry, evaluations.get(site))
            for site, entry in trained.sites.items()
        }
        evaluated = self.plan.is_evaluated(trained.server_round)
        record = RoundRecord(
            round=trained.server_round,
            phase=self.plan.phase(trained.server_round),
            attempt=trained.attempt,
            sites=sites,
            alpha=self._by_tap(trained.alpha_used),
            losses=trained.losses,
            seconds=seconds,
            pairs=pairs or {},
            bytes=_with_evaluation(trained) if evaluated else trained.traffic,
            drift=trained.drift,
            loss_seg=trained.loss_seg,
        )
        best, site_best = state.best, state.site_best
        if evaluated:
            site_best = _site_best(site_best, trained.server_round, sites)
        # With differential privacy a phase ends with its last weights, whatever they score.
        newest = self.plan.privacy is not None
        if evaluated and (newest or displaces(record, state.best_record)):
            best = Best(
                server_round=trained.server_round,
                score=UNKNOWN_SCORE if record.mean_val_dice is None else record.mean_val_dice,
                model=trained.model,
            )
        concluded = replace(
            state,
            completed_rounds=trained.server_round,
            model=trained.model,
            best=best,
            site_best=site_best,
            history=(*state.history, record),
            exchanges=(*state.exchanges, *trained.exchanges),
            seconds=state.seconds + seconds,
        )
        ends_phase_1 = trained.server_round == self.plan.phase_1_rounds < self.plan.rounds
        return phase_2_of(concluded, self._starting_alpha()) if ends_phase_1 else concluded

    def _starting_alpha(self) -> NDArray[np.float64]:
        alpha = starting_alpha(
            len(self.taps),
            plan=self.plan.alpha,
            phase_2_rounds=self.plan.rounds - self.plan.phase_1_rounds,
        )
        return np.where(self._weighed, alpha, 0.0)

    @property
    def _has_common_model(self) -> bool:
        return self.plan.strategy != "local"

    def _next_alpha(
        self,
        state: RunState,
        server_round: int,
        proposals: NDArray[np.float64],
        losses: NDArray[np.float64],
        shares: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """α and target of the next round, from a row of proposals and losses for each site."""
        model = state.model
        if self.plan.phase(server_round) == 1:
            return model.alpha, model.target
        alpha = aggregate_alpha(
            proposals,
            shares,
            plan=self.plan.alpha,
            phase_2_round=server_round - self.plan.phase_1_rounds,
            phase_2_rounds=self.plan.rounds - self.plan.phase_1_rounds,
        )
        alpha = np.where(self._weighed, alpha, 0.0)
        known = model.target
        if known is not None and not np.isnan(known).any():
            return alpha, known
        target = target_of(losses, shares, margin=self.plan.alpha.margin)
        # A tap that no site could measure has its target from the first round that measures it.
        return alpha, target if known is None else np.where(np.isnan(known), target, known)

    def _by_tap(self, vector: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.taps, vector.tolist(), strict=True))


def _with_scores(entry: SiteRound, result: EvaluateResult | None) -> SiteRound:
    if result is not None:
        entry = replace(entry, privacy=result.privacy)
    if result is None or result.dice is None or result.iou is None:
        return entry
    return replace(entry, val_dice=result.dice.mean, val_iou=result.iou.mean)


def _with_evaluation(trained: TrainedRound) -> Traffic:
    """The round's traffic with the aggregate, which every site was sent to score it."""
    sent = nbytes_of(trained.model.weights) * len(trained.sites)
    return replace(trained.traffic, down=trained.traffic.down + sent)


def _site_best(
    before: Mapping[str, tuple[int, float]], server_round: int, sites: Mapping[str, SiteRound]
) -> dict[str, tuple[int, float]]:
    """Each site's best round; while none of its rounds is scored, its newest."""
    best = dict(before)
    for site, entry in sites.items():
        _, score = best.get(site, (0, UNKNOWN_SCORE))
        new = UNKNOWN_SCORE if entry.val_dice is None else entry.val_dice
        if entry.refused is None and new >= score:
            best[site] = (server_round, new)
    return best

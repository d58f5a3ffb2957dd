"""Image reconstruction from what is intercepted, with and without each defence."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fdfed.exchange import (
    BlindingSecret,
    HpkePrivateKey,
    HpkeSuite,
    StepKey,
    new_challenge,
    open_session,
)
from fdfed.networks import SegmentationNetwork
from fdfed.studies.privacy.collusion import blinded
from fdfed.studies.privacy.dp_release import DpRelease
from fdfed.studies.privacy.federation import Hospital
from fdfed.studies.privacy.inversion import LearnedInverse
from fdfed.studies.privacy.observed import (
    flat,
    gradient_of,
    log_gaps,
    released_prototypes,
)
from fdfed.studies.privacy.rows import Row
from fdfed.studies.privacy.setting import Images, Population, Setting
from fdfed.studies.privacy.similarity import correlation, gradient_similarity, psnr, ssim
from fdfed.studies.privacy.vectors import Array
from fdfed.training.initialise import initial_network
from fdfed.training.local_round import LocalRound, train_round_
from fdfed.training.step import layout_of

Batches = list[list[int]]
MEASURES: Final = {
    "PSNR, dB": psnr,
    "SSIM": ssim,
    "gradient similarity": gradient_similarity,
    "correlation": correlation,
}
_SMALL_TENSORS: Final = 8192
"""Entries up to which a parameter's update is a feature: the two finest levels and all biases,
which say most about where in the picture something is, and keep the regression small."""


@dataclass(frozen=True, slots=True, eq=False)
class _Attack:
    """The attacker's proxies and the victims, in batches of n images each."""

    proxies: Images
    proxy_batches: Batches
    victims: Images
    victim_batches: Batches

    @property
    def pictures(self) -> Array:
        """(batches, pixels): the mean picture of each batch of proxies, which is what a batch mean
        can say of its images at best, less its site's mean picture."""
        means = self.proxies.site_means()
        usual = torch.stack([means[site] for site in self.proxies.sites])
        pixels = (self.proxies.image - usual).flatten(1).double().numpy()
        return np.stack([pixels[batch].mean(0) for batch in self.proxy_batches])

    def rows(
        self, features: NDArray[Any], seen: NDArray[Any], *, attack: str, defence: str
    ) -> list[Row]:
        """The learned inverse of `features` (proxy batches, d) on `seen` (victim batches, d)."""
        groups = [self.proxies.patients[batch[0]] for batch in self.proxy_batches]
        inverse = LearnedInverse.fit(features, self.pictures, groups=groups)
        count = len(self.victim_batches[0])
        guesses = np.repeat(inverse.guess(seen), count, axis=0)
        victims = self.victims.take([i for batch in self.victim_batches for i in batch])
        means = self.proxies.site_means()
        usual = torch.stack([means[site] for site in victims.sites])
        difference = torch.from_numpy(guesses).float().view_as(usual)
        return picture_rows(
            (usual + difference).clamp(0, 1),
            victims.image,
            usual,
            attack=attack,
            defence=defence,
            setting="1 image" if count == 1 else f"{count} images",
        )


def picture_rows(
    guess: Float[Tensor, "n 1 h w"],
    truth: Float[Tensor, "n 1 h w"],
    usual: Float[Tensor, "n 1 h w"],
    *,
    attack: str,
    defence: str,
    setting: str,
) -> list[Row]:
    """Every measure of the guesses, beside that of the site's mean picture, `usual`."""
    return [
        Row(
            part="reconstruction",
            attack=attack,
            defence=defence,
            setting=setting,
            measure=name,
            value=float(measure(guess, truth).mean()),
            reference=float(measure(usual, truth).mean()),
            n=len(truth),
        )
        for name, measure in MEASURES.items()
    ]


def _prepared(setting: Setting, population: Population, count: int) -> _Attack:
    """Proxies as they are, mirrored and moved by two pixels; batches of `count`."""
    own = population.others
    moved = [own.image, own.image.flip(-1)], [own.mask, own.mask.flip(-1)]
    for shift in ((0, 2), (0, -2), (2, 0), (-2, 0)):
        for part, source in zip(moved, (own.image, own.mask), strict=True):
            part.append(source.roll(shift, (2, 3)))
    proxies = Images(torch.cat(moved[0]), torch.cat(moved[1]), own.patients * len(moved[0]))
    rng = np.random.default_rng(setting.seed)
    order = rng.permutation(len(proxies))
    drawn = [[int(i)] for i in order[: setting.proxies]]
    if count > 1:
        sites = np.array(proxies.sites)
        names = sorted(set(proxies.sites))
        drawn = [
            rng.choice(np.flatnonzero(sites == names[i % len(names)]), count, False).tolist()
            for i in range(setting.proxies // 2)
        ]
    return _Attack(proxies, drawn, population.members, _batches(population.members, count, rng))


def _batches(images: Images, count: int, rng: np.random.Generator) -> Batches:
    """Whole batches of one site each, shuffled, so that a batch is rarely of one patient."""
    batches = []
    for name in sorted(set(images.sites)):
        rows = rng.permutation([i for i, site in enumerate(images.sites) if site == name]).tolist()
        batches += [rows[i : i + count] for i in range(0, len(rows) - count + 1, count)]
    return batches


def prototype_rows(setting: Setting, population: Population) -> list[Row]:
    """The learned inverse of intercepted prototypes."""
    network = initial_network(setting.plan).eval()
    attack, rows = "prototypes", []
    for count in filter(lambda count: _fits(population.members, count), (1, 2, 8)):
        prepared = _prepared(setting, population, count)
        known = released_prototypes(network, prepared.proxies, prepared.proxy_batches)
        seen = released_prototypes(network, prepared.victims, prepared.victim_batches)
        rows += prepared.rows(
            known, seen, attack=attack, defence="none" if count == 1 else f"mean of {count} images"
        )
        views = {"blinded, distances used": (log_gaps(network, known), log_gaps(network, seen))}
        if count == 1:
            views["blinded, read as if plain"] = known, blinded_frames(network, seen)
            views["sealed, ciphertext read as numbers"] = known, _sealed(seen, known)
        else:
            release = DpRelease(layout_of(network), images=count, seed=setting.seed)
            noisy = []
            for images, batches in (
                (prepared.proxies, prepared.proxy_batches),
                (prepared.victims, prepared.victim_batches),
            ):
                frames = released_prototypes(network, images, [[i] for i in range(len(images))])
                noisy.append(release.released(release.vectors(frames), batches))
            views["DP, σ = 1 in 16 dimensions a tap"] = noisy[0], noisy[1]
        for defence, (features, victims) in views.items():
            rows += prepared.rows(features, victims, attack=attack, defence=defence)
    return rows


def blinded_frames(network: SegmentationNetwork, frames: Array) -> Array:
    """What the coordinator sees, cut to the plain layout (padding holds nothing of it)."""
    layout, secret = layout_of(network), BlindingSecret.known_to_all(0)
    key = StepKey("0" * 16, 1, 1, 0)
    sent = [
        blinded(frame, layout, key=StepKey(key.run_id, 1, 1, step), secret=secret)
        for step, frame in enumerate(frames)
    ]
    return np.stack(sent)[:, : frames.shape[1]]


def _sealed(frames: Array, known: Array) -> Array:
    """The ciphertext of each frame, its bytes spread over the range of the proxies' numbers."""
    key = HpkePrivateKey.generate(HpkeSuite.X25519)
    session, _ = open_session(key.public, site="site", challenge=new_challenge())
    rows = []
    for frame in frames:
        body = session.seal(frame.astype("<f4").tobytes()).body
        level = np.frombuffer(body, np.uint8)[: frames.shape[1]].astype(np.float64) / 255
        rows.append(known.min(0) + level * (known.max(0) - known.min(0)))
    return np.stack(rows)


def update_rows(setting: Setting, population: Population) -> list[Row]:
    """The learned inverse of the weights that a site sends after a few steps."""
    network, rows = initial_network(setting.plan), []
    for count in filter(lambda count: _fits(population.members, count), (1, 2, 8)):
        label = "none" if count == 1 else f"batch of {count}"
        prepared = _prepared(setting, population, count)
        known = _gradients(network, prepared.proxies, prepared.proxy_batches)
        seen = _gradients(network, prepared.victims, prepared.victim_batches)
        rows += prepared.rows(known, seen, attack="one SGD step", defence=label)
        if count == 1:
            both = (
                _with_prototypes(network, known, prepared.proxies, prepared.proxy_batches),
                _with_prototypes(network, seen, prepared.victims, prepared.victim_batches),
            )
            rows += prepared.rows(*both, attack="prototypes and SGD step", defence="none")
            noisy = (
                _noisy(network, prepared.proxies, prepared.proxy_batches, setting.seed),
                _noisy(network, prepared.victims, prepared.victim_batches, setting.seed + 1),
            )
            rows += prepared.rows(*noisy, attack="one SGD step", defence="DP-SGD, C = 1, σ = 1")
            views = (
                _adam_updates(setting, network, prepared.proxies, prepared.proxy_batches),
                _adam_updates(setting, network, prepared.victims, prepared.victim_batches),
            )
            rows += prepared.rows(*views, attack="3 AdamW steps", defence="none")
        if count == setting.plan.batch_size and _fits(population.members, 3 * count):
            # Three sites' batches, each as the row above; the sum is all that is seen.
            summed = _prepared(setting, population, 3 * count)
            views = (
                _gradients(network, summed.proxies, summed.proxy_batches, parts=3),
                _gradients(network, summed.victims, summed.victim_batches, parts=3),
            )
            rows += summed.rows(*views, attack="one SGD step", defence="secure sum of 3 sites")
    return rows


def _fits(images: Images, count: int) -> bool:
    """Whether a site has so many images; the study's have, a test's may not."""
    return max(images.sites.count(site) for site in images.sites) >= count


def _features(tensors: Sequence[Tensor]) -> NDArray[np.float32]:
    return flat([tensor for tensor in tensors if tensor.numel() <= _SMALL_TENSORS])


def _gradients(
    network: SegmentationNetwork, images: Images, batches: Batches, *, parts: int = 1
) -> NDArray[np.float32]:
    """The sum over `parts` sites of the gradient of each one's share of the batch."""
    rows = []
    for batch in batches:
        shares = [images.take(batch[k::parts]) for k in range(parts)]
        rows.append(sum(_features(gradient_of(network, s.image, s.mask)) for s in shares))
    return np.stack(rows)


def _with_prototypes(
    network: SegmentationNetwork, gradients: NDArray[np.float32], images: Images, batches: Batches
) -> NDArray[np.float32]:
    """Both side by side; the prototypes so often that neither outweighs the other by number."""
    frames = released_prototypes(network, images, batches).astype(np.float32)
    times = max(1, round(gradients.shape[1] / frames.shape[1]))
    return np.concatenate([gradients, np.tile(frames, (1, times))], axis=1)


def _noisy(
    network: SegmentationNetwork, images: Images, batches: Batches, seed: int
) -> NDArray[np.float32]:
    """clip_1(∇L) + N(0, 1) of each batch, all of one image: the norm is of all parameters."""
    rng, rows = np.random.default_rng(seed), []
    for batch in batches:
        chosen = images.take(batch)
        gradient = gradient_of(network, chosen.image, chosen.mask)
        features = _features(gradient) * min(1.0, 1 / float(np.linalg.norm(flat(gradient))))
        rows.append((features + rng.normal(size=features.shape)).astype(np.float32))
    return np.stack(rows)


def _adam_updates(
    setting: Setting, network: SegmentationNetwork, images: Images, batches: Batches
) -> NDArray[np.float32]:
    """Weights after three of the library's own steps on one image, less those before."""
    plan = setting.plan.model_copy(update={"steps_per_round": 3, "batch_size": 1})
    request = LocalRound(plan=plan, run_id="privacy", server_round=1, attempt=1, alpha=None)
    before = _features(list(network.parameters()))
    rows = []
    for batch in batches:
        local = copy.deepcopy(network)
        train_round_(local, Hospital(images.take(batch), 1, setting.seed), request)
        rows.append(_features(list(local.parameters())) - before)
    return np.stack(rows)

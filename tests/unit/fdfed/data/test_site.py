"""Batches depend on seed, site and step alone; evaluation is in order; sites can be pooled."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fdfed.data import PARTS, SiteData, check_site_folder, open_site, pool_sites
from fdfed.data.site import VARIANTS, turned
from fdfed.errors import DataError, InvalidInput


def opened(
    folder: Path, site: str = "tnbc", *, batch_size: int = 4, augment: bool = True, seed: int = 0
) -> SiteData:
    return open_site(
        site,
        folder,
        size=32,
        in_channels=3,
        seed=seed,
        batch_size=batch_size,
        augment=augment,
    )


def which(site: SiteData, image: Tensor) -> int:
    """Index of the cached case that `image` shows, turned in any way."""
    for index in range(len(site.all_cases)):
        cached = site.samples[index]["image"]
        if any(torch.equal(turned(cached, variant), image) for variant in range(VARIANTS)):
            return index
    raise LookupError


def test_batches_have_the_promised_shapes_and_values(phantom_dir: Path) -> None:
    image, mask = opened(phantom_dir).training_batch(0)
    assert image.shape == (4, 3, 32, 32)
    assert mask.shape == (4, 1, 32, 32)
    assert image.dtype == mask.dtype == torch.float32
    assert type(image) is Tensor
    assert 0 <= float(image.min()) <= float(image.max()) <= 1
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_noise_has_the_standard_deviation_asked_for_and_leaves_the_masks(
    phantom_dir: Path,
) -> None:
    clear = opened(phantom_dir, batch_size=8)
    noisy = dataclasses.replace(clear, noise=0.05)
    (image, mask), (other, same) = clear.training_batch(3), noisy.training_batch(3)
    torch.testing.assert_close(mask, same, rtol=0, atol=0)
    # Where the noise of 0.05 cannot have met the range's ends.
    inner = (image > 0.3) & (image < 0.7)
    assert inner.sum() > 1000
    difference = (other - image)[inner]
    assert float(difference.std()) == pytest.approx(0.05, rel=0.1)
    assert abs(float(difference.mean())) < 0.01
    assert 0 <= float(other.min()) <= float(other.max()) <= 1
    assert torch.equal(other, noisy.training_batch(3)[0])


def test_a_batch_depends_on_its_step_alone_not_on_those_before(phantom_dir: Path) -> None:
    one, other = opened(phantom_dir), opened(phantom_dir)
    for step in (0, 1, 2):
        one.training_batch(step)
    for step in (7, 3, 7):
        for ours, theirs in zip(one.training_batch(step), other.training_batch(step), strict=True):
            assert torch.equal(ours, theirs)


def test_steps_seeds_and_sites_draw_apart(phantom_dir: Path) -> None:
    site = opened(phantom_dir)
    first = site.training_batch(0)[0]
    assert not torch.equal(first, site.training_batch(1)[0])
    for other in (dataclasses.replace(site, seed=1), dataclasses.replace(site, name="b")):
        assert not torch.equal(first, other.training_batch(0)[0])


def test_another_process_draws_the_same_batch(phantom_dir: Path) -> None:
    code = (
        "import sys, hashlib, pathlib; from fdfed.data import open_site;"
        "site = open_site('tnbc', pathlib.Path(sys.argv[1]), size=32, in_channels=3, seed=0,"
        " batch_size=4);"
        "print(hashlib.sha256(site.training_batch(5)[0].numpy().tobytes()).hexdigest())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(phantom_dir)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "12345", "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    here = opened(phantom_dir).training_batch(5)[0].numpy().tobytes()
    assert result.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_each_epoch_shows_every_training_image_once(phantom_dir: Path) -> None:
    site = opened(phantom_dir, batch_size=4)
    n = site.counts.train
    steps = 4 * n // 4  # 4 n items, exactly four epochs
    shown = [which(site, image) for step in range(steps) for image in site.training_batch(step)[0]]
    epochs = [shown[first : first + n] for first in range(0, 4 * n, n)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(site.parts["train"])
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_larger_than_the_site_are_full(phantom_dir: Path) -> None:
    site = opened(phantom_dir, batch_size=25)
    n = site.counts.train
    assert n < 25
    shown = Counter(which(site, image) for image in site.training_batch(0)[0])
    assert sum(shown.values()) == 25
    assert max(shown.values()) - min(shown[index] for index in site.parts["train"]) <= 1


def test_the_patients_of_a_batch_are_those_of_its_images(phantom_dir: Path) -> None:
    site = opened(phantom_dir, batch_size=5)
    for step in (0, 3, 17):
        owners = [
            site.all_cases[which(site, image)].patient for image in site.training_batch(step)[0]
        ]
        assert site.training_patients(step) == tuple(owners)


def test_without_patients_csv_each_image_is_a_patient_of_its_own_and_that_is_known(
    phantom_dir: Path, tmp_path: Path
) -> None:
    assert opened(phantom_dir).patients_known
    shutil.copytree(phantom_dir, tmp_path / "copy")
    csv = tmp_path / "copy" / "tnbc" / "patients.csv"
    csv.unlink()
    site = opened(tmp_path / "copy")
    assert not site.patients_known
    assert site.training_patient_count == site.counts.train


def test_without_augmentation_images_come_as_they_are(phantom_dir: Path) -> None:
    site = opened(phantom_dir, augment=False)
    cached = [site.samples[index]["image"] for index in site.parts["train"]]
    for image in site.training_batch(2)[0]:
        assert any(torch.equal(image, picture) for picture in cached)


def test_image_and_mask_are_turned_together(phantom_dir: Path) -> None:
    site = opened(phantom_dir)
    for image, mask in zip(*site.training_batch(1), strict=True):
        sample = site.samples[which(site, image)]
        assert any(
            torch.equal(turned(sample["image"], variant), image)
            and torch.equal(turned(sample["mask"], variant), mask)
            for variant in range(VARIANTS)
        )


def test_the_five_variants_are_identity_flips_and_quarter_turns() -> None:
    picture = torch.tensor([[[1, 2], [3, 4]]])
    expected = [
        [[1, 2], [3, 4]],
        [[2, 1], [4, 3]],
        [[3, 4], [1, 2]],
        [[2, 4], [1, 3]],  # to the left: the right column becomes the top row
        [[3, 1], [4, 2]],  # to the right: the left column becomes the top row
    ]
    for variant, rows in enumerate(expected):
        assert turned(picture.float(), variant)[0].tolist() == rows


def test_all_variants_are_drawn_about_equally(phantom_dir: Path) -> None:
    site = opened(phantom_dir)
    drawn = Counter(site._variant(step, item) for step in range(100) for item in range(8))
    # 800 draws of 5: 160 each, with a standard deviation of 11.3.
    assert set(drawn) == set(range(VARIANTS))
    assert all(abs(count - 160) < 5 * 11.3 for count in drawn.values())


def test_a_batch_never_aliases_the_cache(phantom_dir: Path) -> None:
    site = opened(phantom_dir, augment=False)
    before = site.training_batch(0)[0].clone()
    site.training_batch(0)[0].zero_()
    assert torch.equal(site.training_batch(0)[0], before)


@pytest.mark.bad_input
def test_a_negative_step_is_refused(phantom_dir: Path) -> None:
    with pytest.raises(InvalidInput, match="global_step = -1"):
        opened(phantom_dir).training_batch(-1)


def test_evaluation_visits_each_case_of_a_part_once_in_order(phantom_dir: Path) -> None:
    site = opened(phantom_dir, batch_size=2)
    for part in PARTS:
        names = [name for *_, batch in site.evaluation_batches(part) for name in batch]
        assert names == sorted(names) == [case.name for case in site.cases(part)]
        for image, mask, batch in site.evaluation_batches(part):
            assert len(image) == len(mask) == len(batch) <= 2
            index = [case.name for case in site.all_cases].index(batch[0])
            assert torch.equal(image[0], site.samples[index]["image"])


def test_counts_add_up_and_tell_the_normals(phantom_dir: Path) -> None:
    site = opened(phantom_dir, "busuclm")
    counts = site.counts
    assert counts.train + counts.validation + counts.test == 20
    assert counts.empty_masks == check_site_folder(phantom_dir / "busuclm").empty_masks > 0
    assert site.phantoms


def test_no_patient_is_in_two_parts_of_real_data(data_dir: Path) -> None:
    for name in ("tnbc", "busuclm"):
        site = opened(data_dir, name)
        patients = [{case.patient for case in site.cases(part)} for part in PARTS]
        assert all(patients)
        assert not patients[0] & patients[1]
        assert not patients[0] & patients[2]
        assert not patients[1] & patients[2]


def test_opening_tells_every_finding_before_training(site_folder: Path) -> None:
    (site_folder / "masks" / "a.png").unlink()
    (site_folder / "images" / "b.png").write_bytes(b"x")
    with pytest.raises(DataError, match="2 findings") as caught:
        opened(site_folder.parent, "site")
    assert "images/a.png" in str(caught.value)
    assert "images/b.png" in str(caught.value)


def test_progress_reaches_the_end_in_order(site_folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    open_site(
        "site",
        site_folder.parent,
        size=16,
        in_channels=1,
        seed=0,
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, 20) for done in range(1, 21)]


@pytest.mark.bad_input
def test_a_batch_size_of_zero_is_refused(site_folder: Path) -> None:
    with pytest.raises(InvalidInput, match="batch_size = 0"):
        opened(site_folder.parent, "site", batch_size=0)


def test_subsets_are_nested_and_leave_the_test_images(phantom_dir: Path) -> None:
    site = opened(phantom_dir)
    half, most = site.subset(0.5), site.subset(0.8)
    assert len(half.parts["train"]) == -(-site.counts.train // 2)
    assert set(half.parts["train"]) < set(most.parts["train"]) < set(site.parts["train"])
    assert site.subset(1.0).parts == site.parts
    assert half.cases("test") == site.cases("test")
    with pytest.raises(InvalidInput, match="share"):
        site.subset(0.0)


def test_pooling_keeps_every_case_in_its_own_part(phantom_dir: Path) -> None:
    sites = [opened(phantom_dir, name) for name in ("tnbc", "busuclm")]
    pooled = pool_sites(sites)
    for part in PARTS:
        assert [case.name for case in pooled.cases(part)] == [
            f"{site.name}/{case.name}" for site in sites for case in site.cases(part)
        ]
    assert pooled.counts.train == sum(site.counts.train for site in sites)
    last = sites[1].parts["test"][-1]
    *_, (images, _, names) = pooled.evaluation_batches("test")
    assert names[-1] == f"busuclm/{sites[1].all_cases[last].name}"
    assert torch.equal(images[-1], sites[1].samples[last]["image"])
    assert len({which(pooled, image) for image in pooled.training_batch(0)[0]}) == 4


def test_pooling_refuses_what_cannot_be_stacked(phantom_dir: Path) -> None:
    site = opened(phantom_dir)
    grey = open_site("busuclm", phantom_dir, size=32, in_channels=1, seed=0, batch_size=4)
    with pytest.raises(InvalidInput, match="several shapes"):
        pool_sites([site, grey])
    with pytest.raises(InvalidInput, match="twice"):
        pool_sites([site, site])
    with pytest.raises(InvalidInput, match="no site"):
        pool_sites([])


def test_real_images_fill_the_range_of_levels(data_dir: Path) -> None:
    for name in ("tnbc", "busbra"):
        image, mask = opened(data_dir, name, batch_size=8).training_batch(0)
        assert float(np.ptp(image.numpy())) > 0.4
        assert 0 < float(mask.mean()) < 0.5

"""Where an agent finds its images."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdfed.errors import DataError, InvalidInput
from fdfed_client.agent import data_folder
from fdfed_client.config import SiteConfig


def config(tmp_path: Path, data: Path | None = None) -> SiteConfig:
    return SiteConfig(site="tnbc", state=tmp_path / "state", data=data)


def images(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    return folder


def test_the_folder_above_the_sites_is_taken_as_it_is(tmp_path: Path) -> None:
    images(tmp_path / "data" / "tnbc")
    chosen = data_folder(config(tmp_path), tmp_path / "data", phantoms=False)
    assert chosen == tmp_path / "data"


def test_the_sites_own_folder_is_found_by_its_name(tmp_path: Path) -> None:
    own = images(tmp_path / "data" / "tnbc")
    assert data_folder(config(tmp_path), own, phantoms=False) == (tmp_path / "data").resolve()


def test_a_folder_of_images_under_another_name_is_refused(tmp_path: Path) -> None:
    other = images(tmp_path / "data" / "monuseg")
    with pytest.raises(DataError, match="holds images, but is not named tnbc"):
        data_folder(config(tmp_path), other, phantoms=False)


def test_the_command_line_goes_before_the_configuration(tmp_path: Path) -> None:
    images(tmp_path / "one" / "tnbc")
    settings = config(tmp_path, tmp_path / "two")
    assert data_folder(settings, tmp_path / "one", phantoms=False) == tmp_path / "one"
    assert data_folder(settings, None, phantoms=False) == tmp_path / "two"


def test_without_images_the_agent_says_how_to_give_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"DIR/tnbc/images and DIR/tnbc/masks") as err:
        data_folder(config(tmp_path), None, phantoms=False)
    assert "--phantoms" in str(err.value)


def test_phantoms_are_kept_in_the_state_folder_and_never_beside_given_images(
    tmp_path: Path,
) -> None:
    assert data_folder(config(tmp_path), None, phantoms=True) == tmp_path / "state" / "phantoms"
    with pytest.raises(InvalidInput, match="exclude each other"):
        data_folder(config(tmp_path), tmp_path, phantoms=True)

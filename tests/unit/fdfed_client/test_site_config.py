"""`site.toml`: what a hospital's administrator writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdfed.errors import InvalidInput
from fdfed_client.config import SiteConfig, bracketed


def _load(tmp_path: Path, text: str) -> SiteConfig:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return SiteConfig.load(path)


def test_relative_paths_are_beside_the_file_and_absolute_ones_stay(tmp_path: Path) -> None:
    config = _load(tmp_path, 'site = "udiat"\ndata = "images"\nstate = "/var/lib/fdfed"\n')
    assert config.data == tmp_path.resolve() / "images"
    assert config.ca == tmp_path.resolve() / "ca.pem"
    assert config.state == Path("/var/lib/fdfed")


def test_an_unset_data_folder_stays_unset(tmp_path: Path) -> None:
    assert _load(tmp_path, 'site = "udiat"\n').data is None


def test_an_address_with_a_port_brackets_ipv6_only(tmp_path: Path) -> None:
    assert bracketed("::1") == "[::1]"
    assert _load(tmp_path, 'site = "a"\nserver = "::1"\n').exchange_address == "[::1]:8444"
    assert _load(tmp_path, 'site = "a"\nserver = "h"\n').fleet_address == "h:8443"


@pytest.mark.parametrize(
    ("text", "key"), [("", "site"), ('site = "A"\n', "site"), ('site = "a"\nprot = 1\n', "prot")]
)
def test_a_wrong_key_is_named_with_its_file(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(InvalidInput, match=rf"(?s)site\.toml.*{key}: "):
        _load(tmp_path, text)

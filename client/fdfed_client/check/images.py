"""The images: the checks of the data room, told in a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fdfed.data import check_site_folder
from fdfed.errors import FdfedError
from fdfed_client.agent import data_folder
from fdfed_client.check.result import CheckResult, note, ok, problem, warning
from fdfed_client.config import SiteConfig

_SHOWN = 5


def check_images(config: SiteConfig, data: Path | None, *, phantoms: bool) -> Iterator[CheckResult]:
    """Whether the site's folder can be used."""
    if phantoms:
        yield note("images", "phantoms, for a trial")
        return
    try:
        folder = data_folder(config, data, phantoms=False) / config.site
    except FdfedError as err:
        yield problem("images", str(err), "give --data", exit_code=err.exit_code)
        return
    report = check_site_folder(folder)
    for finding in report.findings[:_SHOWN]:
        yield problem("images", f"{finding.file} {finding.reason}", finding.remedy, exit_code=3)
    more = len(report.findings) - _SHOWN
    if more > 0:
        yield problem("images", f"{more} findings more", "solve these first", exit_code=3)
    if report.findings:
        return
    yield ok(
        "images",
        f"{len(report.cases)} in {folder}, {report.empty_masks} of them without foreground, of "
        f"{report.patients} patient(s)",
    )
    if not report.patients_known:
        yield warning(
            "patients",
            "no patients.csv: each image counts as a patient of its own",
            "write one, else a patient's images can be in training and test at once",
        )

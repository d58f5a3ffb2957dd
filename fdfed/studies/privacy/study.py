"""Runs the study job by job; what is done is kept, and a later call goes on behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from fdfed.errors import InvalidInput
from fdfed.files.atomic_file import write_text
from fdfed.studies.privacy.active_server_jobs import active_server_rows
from fdfed.studies.privacy.isometry_jobs import isometry_jobs, norm_rows
from fdfed.studies.privacy.matching_jobs import matching_rows
from fdfed.studies.privacy.membership_jobs import membership_jobs
from fdfed.studies.privacy.peer_jobs import peer_rows
from fdfed.studies.privacy.reconstruction_jobs import prototype_rows, update_rows
from fdfed.studies.privacy.rows import Row
from fdfed.studies.privacy.setting import Population, Setting, open_population
from fdfed.studies.schedule import sole_owner

Job = Callable[[Setting, Population], list[Row]]

JOBS: Final[Mapping[str, Job]] = {
    **isometry_jobs(),
    "active-server": active_server_rows,
    "norms": norm_rows,
    "peer": peer_rows,
    "prototypes": prototype_rows,
    **membership_jobs(),
    "weight-updates": update_rows,
    "matching": matching_rows,
}
"""By name, in the order in which they run: the costly ones last."""

_FOLDER: Final = "jobs"
_SETTING: Final = "setting.json"


def run_privacy_study(
    setting: Setting,
    *,
    data: Path,
    out: Path,
    stop_after_seconds: float,
    on_job: Callable[[str, float], None] = lambda name, seconds: None,
    jobs: Mapping[str, Job] = JOBS,
) -> bool:
    """Runs the jobs that `out` lacks, each as a whole; True if all of them are there then.

    Args:
        stop_after_seconds: after which no job is begun.
        on_job: told each job's name and seconds as it ends.

    Raises:
        InvalidInput: if `out` holds another setting's results, or another process works on it.
        DataError: if the images do not suffice.
    """
    began = time.monotonic()
    with sole_owner(out):
        _check_setting(out, setting)
        missing = [name for name in jobs if not _file(out, name).exists()]
        if not missing:
            return True
        population = open_population(setting, data)
        for name in missing:
            if time.monotonic() - began >= stop_after_seconds:
                return False
            start = time.process_time()
            rows = jobs[name](setting, population)
            seconds = time.process_time() - start
            content = {"seconds": seconds, "rows": [asdict(row) for row in rows]}
            write_text(_file(out, name), json.dumps(content, ensure_ascii=False))
            on_job(name, seconds)
    return True


def load_rows(out: Path, jobs: Mapping[str, Job] = JOBS) -> tuple[list[Row], dict[str, float]]:
    """The rows of all finished jobs, in the order of the jobs, and each job's seconds of CPU."""
    rows, seconds = [], {}
    for name in jobs:
        if _file(out, name).exists():
            content = json.loads(_file(out, name).read_text(encoding="utf-8"))
            rows += [Row(**values) for values in content["rows"]]
            seconds[name] = content["seconds"]
    return rows, seconds


def _file(out: Path, name: str) -> Path:
    return out / _FOLDER / f"{name}.json"


def _check_setting(out: Path, setting: Setting) -> None:
    mine = json.loads(json.dumps(asdict(setting)))
    path = out / _SETTING
    if not path.exists():
        write_text(path, json.dumps(mine, indent=2) + "\n")
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != mine:
        differing = ", ".join(sorted(key for key in mine if found.get(key) != mine[key]))
        raise InvalidInput(
            f"{out} holds a privacy study of another setting ({differing} differ); give --out "
            "another folder"
        )

"""The file that says what the comparison trains: `docs/studies/baselines.toml`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from fdfed.config import Count, Frozen, RunPlan, parse, read_toml
from fdfed.studies.merging import Changes, merged
from fdfed.studies.trainers import TRAINER_NAMES
from fdfed.studies.trials import SHAM

BASE: Final = "base"
CANDIDATES: Final = 2
"""Beside `base`: every method that is tuned is tried in as many configurations."""

Role = Literal["ours", "without", "baseline", "reference"]
MethodName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+-]{0,31}$")]


class Candidate(Frozen):
    """What one configuration of a method changes."""

    plan: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, float] = Field(default_factory=dict)


class Method(Frozen):
    """One row of the comparison."""

    role: Role
    primary: bool = False
    """Whether it is trained with all seeds."""
    plan: dict[str, Any]
    """Its part of the run plan."""
    trainer: str = ""
    parameters: dict[str, float] = Field(default_factory=dict)
    chosen: str = BASE
    candidates: dict[str, Candidate] = Field(default_factory=dict)
    follows: str | None = None
    """The method whose configuration it has too; such a control is not tuned itself."""

    @property
    def is_tuned(self) -> bool:
        """Whether its candidates are tried."""
        return bool(self.candidates)

    def candidate(self, name: str) -> Candidate:
        """The candidate of that name; `base` changes nothing."""
        return Candidate() if name == BASE else self.candidates[name]

    @model_validator(mode="after")
    def _check(self) -> Method:
        if self.trainer not in ("", SHAM, *TRAINER_NAMES):
            raise ValueError(f"there is no trainer {self.trainer}")
        if self.chosen not in (BASE, *self.candidates):
            raise ValueError(f"chosen = {self.chosen!r} is not one of the candidates")
        if self.candidates and len(self.candidates) != CANDIDATES:
            raise ValueError(
                f"{len(self.candidates)} candidates; every tuned method has {CANDIDATES}, so that "
                "none wins by having been tuned more"
            )
        return self


class Group(Frozen):
    """Sites that are trained together."""

    sites: tuple[str, ...]
    size: int | None = None
    crop: int | None = None

    @property
    def plan(self) -> dict[str, Any]:
        """Its part of the run plan."""
        return self.model_dump(exclude_none=True)


class Seeds(Frozen):
    """How many seeds a method is trained with."""

    primary: Count
    others: Count


class Comparison(Frozen):
    """The whole file."""

    frozen: bool
    awaited: str = ""
    """What has to be known before it is frozen."""
    seeds: Seeds
    common: dict[str, Any]
    groups: dict[str, Group]
    methods: dict[MethodName, Method]

    @model_validator(mode="after")
    def _check(self) -> Comparison:
        for role in ("ours", "without"):
            if len(self.of_role(role)) != 1:
                raise ValueError(f"{len(self.of_role(role))} methods have the role {role}; one has")
        for name, method in self.methods.items():
            if method.follows is not None and method.follows not in self.methods:
                raise ValueError(f"{name} follows {method.follows}, which is no method")
        return self

    def of_role(self, role: Role) -> tuple[str, ...]:
        """The methods with that role, in the file's order."""
        return tuple(name for name, method in self.methods.items() if method.role == role)

    @property
    def ours(self) -> str:
        """The method whose lead is in question."""
        return self.of_role("ours")[0]

    @property
    def without(self) -> str:
        """The same without its cross-site term."""
        return self.of_role("without")[0]

    def seeds_of(self, method: str) -> int:
        """How many seeds the method has."""
        return self.seeds.primary if self.methods[method].primary else self.seeds.others

    def values(self, group: str, method: str, candidate: str | None = None) -> dict[str, Any]:
        """The run plan of a method in a group, without seed and split.

        Args:
            candidate: None is the chosen one.
        """
        row = self.methods[method]
        changes: list[Changes] = [self.common, self.groups[group].plan]
        if row.follows is not None:
            followed = self.methods[row.follows]
            changes += [followed.plan, followed.candidate(followed.chosen).plan]
        changes += [row.plan, row.candidate(candidate or row.chosen).plan]
        values: dict[str, Any] = {}
        for change in changes:
            values = merged(values, change)
        return values

    def parameters(self, method: str, candidate: str | None = None) -> dict[str, float]:
        """The trainer's parameters."""
        row = self.methods[method]
        return {**row.parameters, **row.candidate(candidate or row.chosen).parameters}


@dataclass(frozen=True, slots=True)
class Configuration:
    """The file, read, and what names it."""

    content: Comparison
    sha256: str
    """Of the file's bytes, in hexadecimal."""


def read_configuration(path: Path) -> Configuration:
    """The comparison in a TOML file, with every run plan in it tried.

    Raises:
        InvalidInput: if the file is missing or is not such a configuration; names what is wrong.
    """
    content = parse(Comparison, read_toml(path), source=str(path))
    for group in content.groups:
        for name, method in content.methods.items():
            for candidate in (BASE, *method.candidates):
                values = content.values(group, name, candidate)
                parse(RunPlan, values, source=f"{path}: {name}, {candidate}")
    return Configuration(content, hashlib.sha256(path.read_bytes()).hexdigest())

"""All targets, by the side of the system that they belong to."""

from tests.fuzz.target import Target
from tests.fuzz.targets import exchange, files, joining, records, surface, trust

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (exchange, trust, joining, records, files, surface)
    for target in module.TARGETS
}

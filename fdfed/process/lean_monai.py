"""MONAI without the packages that it takes along where they are installed.

`import monai` loads all of MONAI, and each optional package that one of its parts could use: Ignite
and with it PyTorch's distributed training, a validator of JSON schemas that compiles the grammar of
internationalised addresses, TensorBoard. Nothing here uses those parts, and they are most of the
seconds that an agent takes to start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Final

_PACKAGE: Final = "monai"
SPARED: Final = (
    "ignite",
    "jsonschema",
    "tensorboard",
    "pandas",
    "sklearn",
    "matplotlib",
    "skimage",
)


def spare_optional_parts() -> None:
    """From now on MONAI is loaded as if `SPARED` were not installed.

    For a process that serves one purpose, at its beginning. A package that is loaded already stays
    (`import ignite` before this gives MONAI's trainers), and each can be loaded once MONAI is.
    """
    if _PACKAGE not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds MONAI itself, once, as it would be found without this."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _PACKAGE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with _hidden():
            self._loader.exec_module(module)


@contextmanager
def _hidden() -> Iterator[None]:
    hidden = [name for name in SPARED if name not in sys.modules]
    # What Python finds there instead of a module, it reports as not installed.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, "") is None:
                del sys.modules[name]

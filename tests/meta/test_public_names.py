"""Every public name says what it is, and of what type."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import motia_adapters
import pytest

import motia_core

DUNDERS = ("__init__", "__call__", "__getitem__", "__getattr__")


def modules() -> list[str]:
    """All public modules of the project."""
    found = []
    for package in (motia_core, motia_adapters):
        found.append(package.__name__)
        found += [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [name for name in found if not any(part.startswith("_") for part in name.split("."))]


def defined_in(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """A module's own public classes and functions, and those classes' own public methods."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            yield name, value
        if inspect.isclass(value):
            for attribute, raw in vars(value).items():
                member = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
                member = member.fget if isinstance(member, property) else member
                written_here = inspect.isfunction(member) and member.__module__ == module.__name__
                if written_here and (not attribute.startswith("_") or attribute in DUNDERS):
                    yield f"{name}.{attribute}", member


@pytest.mark.parametrize("name", modules())
def test_public_names_are_documented_and_typed(name: str) -> None:
    module = importlib.import_module(name)
    bare, untyped = [], []
    assert inspect.getdoc(module), f"{name} has no docstring"
    for path, value in defined_in(module):
        owner, _, method = path.rpartition(".")
        inherited = bool(owner) and any(method in vars(base) for base in getattr(module, owner).__mro__[1:])
        tells_by_its_name = method in DUNDERS or method.startswith("test_")
        if not value.__doc__ and not inherited and not tells_by_its_name:
            bare.append(path)
        # What a decorator or dataclass made carries no source, and no types of its own.
        if inspect.isfunction(value) and value.__code__.co_filename == module.__file__:
            parameters = list(inspect.signature(value).parameters.values())
            parameters = (
                parameters[1:] if owner and parameters and parameters[0].name in ("self", "cls") else parameters
            )
            if any(p.annotation is p.empty for p in parameters) or "return" not in value.__annotations__:
                untyped.append(path)
    assert not bare, f"without a docstring: {bare}"
    assert not untyped, f"without types: {untyped}"


def test_everything_promised_is_there() -> None:
    for name in motia_core.__all__:
        assert getattr(motia_core, name) is not None, name
    with pytest.raises(AttributeError, match="module 'motia_core' has no attribute 'nonsense'"):
        motia_core.nonsense  # noqa: B018

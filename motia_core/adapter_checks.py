"""What is checked of an adapter's class before it is built: all that would only fail in use."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from motia_core.adapter import Adapter
from motia_core.errors import PluginError

_CONTRACT: Final[Mapping[str, Any]] = MappingProxyType(
    {name: member for name, member in vars(Adapter).items() if not name.startswith("_")}
)
"""The members of `Adapter`, by name."""


def check_adapter_class(found: type) -> None:
    """Raise `PluginError` with all that keeps instances of ``found`` from being called as an `Adapter` is."""
    if not issubclass(found, Adapter):
        raise PluginError(f"{found.__name__} is not a subclass of motia_core.adapter.Adapter")
    problems = [*_left_out(found), *_misshapen(found)]
    if problems:
        raise PluginError(f"{found.__name__} does not keep the contract of Adapter: {'; '.join(problems)}")


def _left_out(found: type[Adapter]) -> Iterator[str]:
    own = [name for name in dir(found) if not name.startswith("_") and name not in _CONTRACT]
    for name in sorted(found.__abstractmethods__):
        close = difflib.get_close_matches(name, own, n=1, cutoff=0.7)
        hint = f" (it has {close[0]!r}: did you mean {name!r}?)" if close else ""
        yield f"{name} is missing{hint}"


def _misshapen(found: type[Adapter]) -> Iterator[str]:
    for name, promised in _CONTRACT.items():
        member = inspect.getattr_static(found, name)
        if member is promised:
            continue
        problem = _kind_problem(name, promised, member) or _call_problem(name, promised, member)
        if problem:
            yield problem


def _kind_problem(name: str, promised: Any, member: Any) -> str | None:
    """What is wrong with what it is: plain, async or a property."""
    if isinstance(promised, property):
        return f"{name} must be a property (@property), not a method" if inspect.isfunction(member) else None
    if isinstance(member, staticmethod | classmethod):
        return None
    if not callable(member) and not hasattr(member, "__get__"):
        return f"{name} must be a method, not {type(member).__name__}"
    function = inspect.unwrap(member)
    if not inspect.isfunction(function):
        return None
    is_async = inspect.iscoroutinefunction(function)
    if name in ("watch", "resume"):
        if is_async or (inspect.isgeneratorfunction(function) and not inspect.isasyncgenfunction(function)):
            return f"{name} must be an async generator ('async def' with 'yield'), not {_described(function)}"
    elif inspect.iscoroutinefunction(promised) and not is_async:
        return f"{name} must be a coroutine function ('async def'), not {_described(function)}"
    elif not inspect.iscoroutinefunction(promised) and (is_async or inspect.isasyncgenfunction(function)):
        return f"{name} must be a plain function ('def'), not {_described(function)}"
    return None


def _call_problem(name: str, promised: Any, member: Any) -> str | None:
    """Why it cannot be called as the core calls it, if it cannot."""
    if not inspect.isfunction(member) or not inspect.isfunction(promised):
        return None
    parameters = inspect.signature(promised).parameters.values()
    placed = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    named = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    try:
        inspect.signature(member).bind(*placed, **dict.fromkeys(named))
    except TypeError as error:
        called = ", ".join([*placed[1:], *(f"{name}=..." for name in named)])
        return f"{name} cannot be called as {name}({called}): {error}"
    return None


def _described(function: Any) -> str:
    if inspect.isasyncgenfunction(function):
        return "an async generator"
    if inspect.iscoroutinefunction(function):
        return "a coroutine function"
    return "a generator" if inspect.isgeneratorfunction(function) else "a plain function"

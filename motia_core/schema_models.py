"""Pydantic models as items: written as JSON so that they are read back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from pydantic import AliasChoices, AliasPath, BaseModel, PlainSerializer, Secret, SecretBytes, SecretStr, WrapSerializer
from pydantic.fields import FieldInfo

from motia_core.errors import SchemaError
from motia_core.masking import mask_urls

_SECRETS: Final = (Secret, SecretStr, SecretBytes)


def dump(value: BaseModel) -> dict[str, Any]:
    """A model's instance as an item: by aliases, without computed fields, as they do not read back.

    Raises `SchemaError` where it would not be read back as it was.
    """
    problem = model_problem(type(value))
    if problem:
        raise SchemaError(f"{type(value).__name__} cannot be written: {problem}")
    try:
        return value.model_dump(mode="json", by_alias=True, round_trip=True)
    except Exception as error:
        raise SchemaError(f"{type(value).__name__} cannot be written: {_said(error)}") from error


def validator_failed(model: type[BaseModel], error: Exception) -> str:
    """The sentence for a validator that raised what Pydantic takes for no answer."""
    return f"a validator of {model.__name__} failed (it must raise ValueError to refuse): {_said(error)}"


@lru_cache(maxsize=1024)
def model_problem(model: type[BaseModel]) -> str | None:
    """Why items of ``model`` cannot be written and read back, or ``None``: the first field at fault, and the remedy."""
    return next(_problems(model), None)


def _problems(model: type[BaseModel]) -> Iterator[str]:
    for found in _closure(model):
        serialized = found.__pydantic_decorators__
        if serialized.model_serializers:
            continue  # the author says how it is written
        by_hand = {name for decorator in serialized.field_serializers.values() for name in decorator.info.fields}
        for name, info in found.model_fields.items():
            problem = _alias_problem(found, name, info)
            if problem is None and by_hand.isdisjoint((name, "*")):
                problem = _secret_problem(info)
            if problem:
                yield f"field {found.__name__}.{name} {problem}"


def _alias_problem(model: type[BaseModel], name: str, info: FieldInfo) -> str | None:
    written = info.serialization_alias or name
    read = _read_names(model, name, info)
    if info.exclude and info.is_required():
        return "is excluded from what is written, but required of what is read: give it a default"
    if info.exclude or written in read:
        return None
    names = " or ".join(map(repr, read)) or "a path"
    return f"is written as {written!r} but read as {names}: give it one alias for both, as in Field(alias={written!r})"


def _read_names(model: type[BaseModel], name: str, info: FieldInfo) -> list[str]:
    alias = info.validation_alias
    choices: list[Any] = alias.choices if isinstance(alias, AliasChoices) else [name if alias is None else alias]
    paths = [choice.path if isinstance(choice, AliasPath) else [choice] for choice in choices]
    names = [str(path[0]) for path in paths if len(path) == 1]
    config = model.model_config
    if config.get("validate_by_alias") is False:
        names = []
    if config.get("populate_by_name") or config.get("validate_by_name"):
        names.append(name)
    return names


def _secret_problem(info: FieldInfo) -> str | None:
    if any(isinstance(mark, PlainSerializer | WrapSerializer) for mark in info.metadata):
        return None
    for part in _parts(info.annotation):
        if issubclass(part, _SECRETS):
            return (
                f"is a {part.__name__}, which is written as '**********', so that its value would be lost: keep secrets"
                " out of streams, which show all they hold to their subscribers, or use a plain type"
            )
    return None


def _closure(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The model, and all models within it."""
    found = [model]
    for known in found:
        for info in known.model_fields.values():
            found += [part for part in _parts(info.annotation) if issubclass(part, BaseModel) and part not in found]
    return found


def _parts(annotation: Any) -> Iterator[type]:
    """All classes that an annotation mentions."""
    annotation = getattr(annotation, "__value__", annotation)  # a ``type`` alias
    origin = getattr(annotation, "__origin__", annotation)
    if isinstance(origin, type):
        yield origin
    for argument in getattr(annotation, "__args__", ()):
        yield from _parts(argument)


def _said(error: Exception) -> str:
    lines = mask_urls(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

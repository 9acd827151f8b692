"""Schemas: every value about to be written is checked, once compiled (SEMANTICS A8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs
from pydantic import BaseModel, PydanticUserError, ValidationError

from motia_core.errors import ConfigError, SchemaError
from motia_core.schema_models import model_problem, validator_failed
from motia_core.values import decode

Check = Callable[[Any, bytes], None]
"""``check(value, encoded)`` raises `SchemaError` unless the value fits."""


def compile_schema(what: str, schema: type[BaseModel] | Mapping[str, Any] | None) -> Check | None:
    """The check for a schema; ``None`` where there is none. ``what``: whose it is, as in "stream 'documents'".

    A Pydantic model is applied strictly to the JSON ("3" is no integer), so that what
    is stored is what the model says. References to other documents are never fetched.
    Raises `ConfigError` for a schema that is none, and for a model whose items would not
    be read back as they were written (`model_problem`).
    """
    if schema is None:
        return None
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        try:
            check_model = _model_check(schema)
        except PydanticUserError as error:
            raise ConfigError(f"{what}: schema {schema.__name__}: {_first_line(error)}") from error
        if problem := model_problem(schema):
            raise ConfigError(f"{what}: schema {schema.__name__}: {problem}")
        return check_model
    if not isinstance(schema, Mapping):
        raise ConfigError(
            f"{what}: schema must be a Pydantic model or a JSON Schema object, not {type(schema).__name__}"
        )
    try:
        validator = jsonschema_rs.validator_for(dict(schema), retriever=_refuse)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError, TypeError) as error:
        raise ConfigError(f"{what}: not a valid JSON Schema: {_first_line(error)}") from error

    def check(value: Any, encoded: bytes) -> None:
        try:
            if validator.is_valid(value):
                return
        except (TypeError, ValueError):
            pass  # a subclass of a JSON type: judge what it was encoded to
        error = next(iter(validator.iter_errors(decode(encoded))), None)
        if error is None:
            return
        raise SchemaError(error.message, path=_path(error.instance_path))

    return check


def _model_check(model: type[BaseModel]) -> Check:
    validate = model.__pydantic_validator__.validate_json

    def check(value: Any, encoded: bytes) -> None:
        try:
            validate(encoded, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            raise SchemaError(first["msg"], path=_path(list(first["loc"]))) from None
        except Exception as error:
            raise SchemaError(validator_failed(model, error)) from error

    return check


def _refuse(uri: str) -> Any:
    raise ValueError(f"reference to another document ({uri}) is not followed")


def _path(steps: list[Any]) -> str:
    return "$" + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

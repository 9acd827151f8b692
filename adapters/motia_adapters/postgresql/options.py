"""Options that are the same whatever the way to the database."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^\x00]*$")]
"""The name of a table or column, exactly as PostgreSQL keeps it: ``CREATE TABLE Orders`` makes ``orders``."""
SchemaName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""The name of a schema of ours: a letter or '_', then letters, digits and '_'."""


class MappedOptions(BaseModel):
    """``mapped = { table = ..., group_field = ..., id_field = ... }``: a table of yours becomes a stream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: Annotated[str, Field(min_length=1, max_length=127, pattern=r"^[^\x00.]+(\.[^\x00.]+)?$")]
    """``table`` (in schema ``public``) or ``schema.table``."""
    group_field: Name
    """The column (text, varchar, an integer type or uuid) that holds each row's group."""
    id_field: Name
    """The column of the same types that holds each row's id; with the group, or alone, it must be unique."""
    rest_field: Name | None = None
    """A json or jsonb column for an object with whatever the other columns cannot hold."""
    include_ids: bool = True
    """Whether values show the columns of the group and the id, too."""

    @model_validator(mode="after")
    def _each_once(self) -> MappedOptions:
        taken: dict[str, str] = {}
        for option in ("group_field", "id_field", "rest_field"):
            field = getattr(self, option)
            if field in taken:
                raise ValueError(f"{option} names column {field!r}, which is {taken[field]} already")
            if field is not None:
                taken[field] = option
        return self

    @property
    def place(self) -> tuple[str, str]:
        """The table's schema and name."""
        schema, dot, name = self.table.rpartition(".")
        return (schema if dot else "public"), name

"""Pydantic models as schemas and items: what cannot be read back as it was written is refused, and says why."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

from motia_core import Motia, StreamConfig
from motia_core.errors import ConfigError, SchemaError
from motia_core.streams import Stream

Docs = Stream[dict[str, Any]]


@pytest.fixture
async def docs() -> AsyncGenerator[Docs, None]:
    """A stream without a schema."""
    async with Motia(streams=[StreamConfig(name="documents")], storage={"default": "memory://"}) as motia:
        yield motia.streams["documents"]


def declared(model: Any) -> Motia:
    return Motia(streams=[StreamConfig(name="documents", schema=model)], storage={"default": "memory://"})


# -- validators


class Positive(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _positive(cls, n: int) -> int:
        if n == 0:
            raise ZeroDivisionError("redis://me:hunter2@host is no divisor\nmore")
        if n < 0:
            raise ValueError("must be positive")
        return n


async def test_a_validator_that_raises_something_else_is_a_schema_error_with_its_cause() -> None:
    async with declared(Positive) as motia:
        docs = motia.streams["documents"]
        with pytest.raises(SchemaError, match=r"^\$\.n: Value error, must be positive$"):
            await docs.set("g", "x", {"n": -1})
        writes = [
            docs.set("g", "x", {"n": 0}),
            docs.update("g", "x", [{"type": "set", "path": "n", "value": 0}]),
        ]
        for write in writes:
            with pytest.raises(SchemaError) as caught:
                await write
            assert str(caught.value) == (
                "$: a validator of Positive failed (it must raise ValueError to refuse):"
                " ZeroDivisionError: redis://me:***@host is no divisor"
            )
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert await docs.get("g", "x") is None


async def test_the_same_when_an_item_is_read_as_a_model(docs: Docs) -> None:
    await docs.set("g", "x", {"n": 0})
    with pytest.raises(SchemaError, match=r"stream 'documents': a validator of Positive failed .*ZeroDivisionError"):
        await docs.typed(Positive).get("g", "x")
    assert await docs.get("g", "x") == {"n": 0}


async def test_a_serializer_that_raises_is_a_schema_error(docs: Docs) -> None:
    class Broken(BaseModel):
        n: int = 1

        @field_serializer("n")
        def _write(self, n: int) -> int:
            raise KeyError("n")

    with pytest.raises(SchemaError, match=r"Broken cannot be written: PydanticSerializationError: .*KeyError"):
        await docs.set("g", "x", Broken())


# -- aliases


class Twofold(BaseModel):
    owner: str = Field(validation_alias="ownerIn", serialization_alias="ownerOut")


class OneWay(BaseModel):
    owner: str = Field(validation_alias="ownerId")


class Pathed(BaseModel):
    owner: str = Field(validation_alias=AliasPath("owners", 0))


class Dropped(BaseModel):
    owner: str = Field(exclude=True)


class Holder(BaseModel):
    inner: dict[str, list[OneWay | None]] | None = None


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (
            Twofold,
            "field Twofold.owner is written as 'ownerOut' but read as 'ownerIn': give it one alias for both,"
            " as in Field(alias='ownerOut')",
        ),
        (OneWay, "field OneWay.owner is written as 'owner' but read as 'ownerId': give it one alias for both, "),
        (Holder, "field OneWay.owner is written as 'owner' but read as 'ownerId': give it one alias for both, "),
        (Pathed, "field Pathed.owner is written as 'owner' but read as a path: give it one alias for both, "),
        (Dropped, "field Dropped.owner is excluded from what is written, but required of what is read: give it a def"),
    ],
)
async def test_a_model_that_cannot_be_read_back_is_refused_where_it_is_declared(
    model: type[BaseModel], problem: str, docs: Docs
) -> None:
    with pytest.raises(ConfigError) as caught:
        declared(model)
    assert str(caught.value).startswith(f"stream 'documents': schema {model.__name__}: {problem}")
    with pytest.raises(SchemaError) as refused:
        await docs.set("g", "x", model.model_construct())
    assert str(refused.value).startswith(f"$: {model.__name__} cannot be written: {problem}")


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    owner_id: str


class Either(BaseModel):
    owner_id: str = Field(validation_alias=AliasChoices("ownerId", "owner_id"))


class ByName(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    owner_id: str = Field(validation_alias="ownerId")


class Named(BaseModel):
    owner_id: str = Field(alias="owner")


@pytest.mark.parametrize("model", [Camel, Either, ByName, Named])
async def test_aliases_that_read_what_they_write(model: type[BaseModel]) -> None:
    value = model.model_validate({"ownerId": "u", "owner": "u"})
    async with declared(model) as motia:
        docs: Stream[Any] = motia.streams["documents"].typed(model)
        await docs.set("g", "x", value)
        assert await docs.get("g", "x") == value


# -- secrets


class Account(BaseModel):
    password: SecretStr


class Bytes(BaseModel):
    password: list[SecretBytes] = []


class Pin(BaseModel):
    password: Secret[int] | None = None


@pytest.mark.parametrize(("model", "kind"), [(Account, "SecretStr"), (Bytes, "SecretBytes"), (Pin, "Secret")])
async def test_a_secret_is_never_stored_as_stars(model: type[BaseModel], kind: str, docs: Docs) -> None:
    problem = f"field {model.__name__}.password is a {kind}, which is written as '**********', so that its value would"
    with pytest.raises(ConfigError) as caught:
        declared(model)
    assert problem in str(caught.value)
    with pytest.raises(SchemaError) as refused:
        await docs.set("g", "x", model.model_construct(password=SecretStr("hunter2")))
    assert problem in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert await docs.get("g", "x") is None


class Shown(BaseModel):
    password: SecretStr

    @field_serializer("password")
    def _write(self, password: SecretStr) -> str:
        return password.get_secret_value()


class Annotated_(BaseModel):
    password: Annotated[SecretStr, PlainSerializer(SecretStr.get_secret_value)]


class Whole(BaseModel):
    password: SecretStr = Field(validation_alias="pw")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        return {"pw": data["password"]} if isinstance(data, dict) else data

    @model_serializer
    def _write(self) -> dict[str, str]:
        return {"password": self.password.get_secret_value()}


@pytest.mark.parametrize("model", [Shown, Annotated_, Whole])
async def test_who_says_how_a_secret_is_written_may(model: type[BaseModel]) -> None:
    value = model.model_validate({"password": "hunter2"})
    async with declared(model) as motia:
        docs: Stream[Any] = motia.streams["documents"].typed(model)
        await docs.set("g", "x", value)
        assert await docs.get("g", "x") == value

"""What code returns is written by its type, and read back by it before it is kept."""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Awaitable, Iterable
from datetime import datetime
from typing import Annotated, Any, Never, NoReturn

import msgspec
import pytest
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    RootModel,
    Secret,
    SecretStr,
    TypeAdapter,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
)
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from awakeables import Context, Reject, Service, Task, TerminalError, Worker
from awakeables.core.outcomes import Resolution
from awakeables.errors import DeclarationError
from awakeables.handlers.serde import codec_for
from awakeables.handlers.typenames import is_stable, type_name
from awakeables.testing import Paused
from unit.handlers.conftest import Runs


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    first_name: str


class Nested(BaseModel):
    people: list[Camel]


class Settled(BaseModel):
    """Says itself that it is written by name."""

    model_config = ConfigDict(alias_generator=to_camel, serialize_by_alias=False, validate_by_name=True)
    first_name: str


class OutOnly(BaseModel):
    """Its alias is for writing, it is read by name."""

    first_name: str = Field(serialization_alias="firstName")


class InOnly(BaseModel):
    """Its alias is for reading what another API writes."""

    celsius: float = Field(validation_alias="temperature_2m")


class Paths(BaseModel):
    celsius: float = Field(validation_alias=AliasPath("current", "temperature"))


class Choices(BaseModel):
    celsius: float = Field(validation_alias=AliasChoices("temperature", "celsius"))


@dataclasses.dataclass
class Data:
    first_name: Annotated[str, Field(alias="firstName")]


class Typed(TypedDict):
    first_name: Annotated[str, Field(alias="firstName")]


ANN = Camel.model_validate({"firstName": "Ann"})
BY_ALIAS = b'{"firstName":"Ann"}'
BY_NAME = b'{"first_name":"Ann"}'


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        (Camel, ANN, BY_ALIAS),
        (Nested, Nested(people=[ANN]), b'{"people":[' + BY_ALIAS + b"]}"),
        (dict[str, Camel | None], {"a": ANN, "b": None}, b'{"a":' + BY_ALIAS + b',"b":null}'),
        (Settled, Settled(first_name="Ann"), BY_NAME),
        (OutOnly, OutOnly(first_name="Ann"), BY_NAME),
        (Choices, Choices(celsius=1), b'{"celsius":1.0}'),
        (Any, ANN, BY_ALIAS),
        (Any, [ANN], b"[" + BY_ALIAS + b"]"),
    ],
)
def test_case_t2_a_value_is_written_by_alias_where_its_type_reads_that(
    type_: Any, value: Any, text: bytes
) -> None:
    codec = codec_for(type_)
    assert codec.resolution(value).content == text
    assert codec.answer(value).content == text
    if type_ is not Any:
        assert codec.decode(text) == codec.load_written(text) == value


@pytest.mark.parametrize("type_", [Data, Typed])
def test_case_t2_dataclasses_and_typed_dicts_come_back(type_: Any) -> None:
    codec = codec_for(type_)
    value = TypeAdapter(type_).validate_json(BY_ALIAS)
    assert codec.decode(codec.answer(value).content) == value


@pytest.mark.parametrize("type_", [InOnly, Paths])
def test_case_t2_a_type_that_reads_another_api_is_kept_by_name_and_is_no_answer(
    run: Runs, type_: Any
) -> None:
    def measure() -> Any:
        return type_.model_construct(celsius=20.5)

    async def handler(ctx: Context) -> float:
        return (await ctx.run("measure", measure, type=type_)).celsius  # type: ignore[no-any-return]

    assert run(handler).value == 20.5
    with pytest.raises(TypeError, match="celsius is written as 'celsius' and read as"):
        codec_for(type_).answer(measure())


class Exact(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.width**2


class Wide(Exact):
    model_config = ConfigDict(extra="allow")


class Texts(BaseModel):
    numbers: Json[list[int]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Exact(width=2), b'{"width":2}'),
        (Wide(width=2, height=3), b'{"width":2,"height":3}'),  # type: ignore[call-arg]
        (Texts(numbers="[1]"), b'{"numbers":"[1]"}'),  # type: ignore[arg-type]
    ],
    ids=["forbid", "allow", "json"],
)
def test_case_t2_what_a_type_writes_and_does_not_read_is_left_out(value: BaseModel, text: bytes) -> None:
    codec = codec_for(list[type(value)])  # type: ignore[misc]
    written = codec.answer([value]).content
    assert written == b"[" + text + b"]"
    assert codec.decode(written) == [value]
    schema = msgspec.json.decode(codec.written or b"")
    assert list(schema["$defs"][type(value).__name__]["properties"]) == list(type(value).model_fields)


def test_case_t2_a_run_and_a_result_come_back_as_they_went(run: Runs) -> None:
    def load() -> Camel:
        return ANN

    async def handler(ctx: Context) -> Camel:
        loaded = await ctx.run("load", load)
        assert loaded == ANN
        return loaded

    assert run(handler).value == {"firstName": "Ann"}


def test_case_t2_journals_that_have_the_fields_by_name_are_read() -> None:
    assert codec_for(Camel).load_written(BY_NAME) == ANN
    with pytest.raises(ValueError, match="firstName"):
        codec_for(Camel).decode(BY_NAME)


def test_case_t2_what_is_described_is_what_is_written() -> None:
    for type_, name in ((Camel, "firstName"), (OutOnly, "first_name"), (Settled, "first_name")):
        written = msgspec.json.decode(codec_for(type_).written or b"")
        assert list(written["properties"]) == [name]


@pytest.mark.parametrize(
    ("returns", "value", "shown"),
    [
        (int, "abc", "declares -> int but returned 'abc': "),
        (list[int], None, "but returned None: "),
        (Camel, {"name": "Ann"}, "Camel but returned an instance of dict: firstName: Field required"),
        (Any, object(), "returned an instance of object: "),
        (float, float("nan"), "returned nan: "),
        pytest.param(
            int, 10**5000, "declares -> int but returned an instance of int: ", id="too many digits"
        ),
        (Any, "\ud800", "returned '\\ud800': "),
        (datetime, "soon", "declares -> datetime.datetime but returned 'soon': "),
    ],
)
def test_case_t5_a_result_of_another_type_pauses_at_once(
    run: Runs, returns: Any, value: Any, shown: str
) -> None:
    attempts = 0

    async def handler(ctx: Context) -> Any:
        nonlocal attempts
        attempts += 1
        return value

    handler.__annotations__["return"] = returns
    with pytest.raises(Paused) as paused:
        _ = run(handler).value
    assert attempts == 1
    assert "ResultMisfit" in str(paused.value)
    assert "handler handler" in str(paused.value)
    assert shown in str(paused.value)


def test_case_t5_items_that_pydantic_checks_later_are_checked_before_they_are_kept(run: Runs) -> None:
    def load() -> Iterable[Camel]:
        yield {"first_name": "Ann"}  # type: ignore[misc]

    async def handler(ctx: Context) -> list[Camel]:
        return list(await ctx.run("load", load))

    assert run(handler).value == [{"firstName": "Ann"}]
    with pytest.raises(ValueError, match="unable to parse"):
        codec_for(Iterable[int]).resolution(part for part in ["1", "x"])
    with pytest.raises(ValueError, match=r"^an item of an Iterable does not fit$"):
        codec_for(dict[str, Iterable[int]]).decode(b'{"n":[1,"x"]}')


class Loads:
    def __call__(self, name: str) -> Camel:
        return Camel.model_validate({"firstName": name})

    def method(self, name: str) -> Camel:
        return self(name)

    async def asynchronous(self, name: str) -> Camel:
        return self(name)


def loads_later(name: str) -> Awaitable[Camel]:
    return Loads().asynchronous(name)


@pytest.mark.parametrize(
    "action",
    [
        Loads(),
        Loads().method,
        Loads().asynchronous,
        loads_later,
        functools.partial(loads_later),
        functools.partial(Loads()),
        functools.partial(functools.partial(Loads().method)),
    ],
    ids=lambda action: type(action).__name__,
)
def test_case_t5_the_annotation_of_any_kind_of_callable_counts(run: Runs, action: Any) -> None:
    async def handler(ctx: Context) -> str:
        return (await ctx.run("load", action, "Ann")).first_name  # type: ignore[no-any-return]

    assert run(handler).value == "Ann"


def test_case_t5_a_class_that_is_called_is_the_type_of_its_result(run: Runs) -> None:
    async def handler(ctx: Context) -> str:
        action: Any = functools.partial(Camel, **{"firstName": "Ann"})
        return (await ctx.run("load", action)).first_name  # type: ignore[no-any-return]

    assert run(handler).value == "Ann"


def test_case_t5_what_never_returns_has_no_result(run: Runs) -> None:
    async def handler(ctx: Context) -> NoReturn:
        raise TerminalError("gone", code=410)

    worker = Worker("w")

    @worker.task("tasks")
    def refuse(task: Task[int]) -> Never:
        raise Reject("no")

    with pytest.raises(TerminalError, match="gone"):
        _ = run(handler).value


def test_case_t5_what_the_type_is_made_of_is_taken_as_an_input_would_be(run: Runs) -> None:
    async def handler(ctx: Context) -> Camel:
        return {"first_name": "Ann"}  # type: ignore[return-value]

    assert run(handler).value == {"firstName": "Ann"}


def test_case_t6_each_attempt_has_a_default_of_its_own(run: Runs) -> None:
    async def handler(ctx: Context, seen: list[int] = []) -> list[int]:  # noqa: B006
        seen.append(len(seen))
        await ctx.run("look", lambda: None)
        return seen

    assert [run(handler).value for _ in range(2)] == [[0], [0]]


async def by_field(ctx: Context, limit: int = Field(10, gt=0)) -> None: ...


async def by_annotation(ctx: Context, limit: Annotated[int, Field(default=10)]) -> None: ...


async def by_factory(ctx: Context, limits: Annotated[list[int], Field(default_factory=list)]) -> None: ...


@pytest.mark.parametrize("handler", [by_field, by_annotation, by_factory])
def test_case_t6_a_default_that_only_pydantic_knows_is_refused(handler: Any) -> None:
    with pytest.raises(DeclarationError, match=r"write it as a Python default: limits?: Annotated\[…, Field"):
        Service("s").handler()(handler)


class Login(BaseModel):
    password: SecretStr


class Open(BaseModel):
    """Says itself how the secret is written."""

    password: SecretStr

    @field_serializer("password")
    def clear(self, password: SecretStr) -> str:
        return password.get_secret_value()


class Whole(BaseModel):
    password: SecretStr

    @model_serializer
    def clear(self) -> dict[str, str]:
        return {"password": self.password.get_secret_value()}


class Root(RootModel[list[SecretStr]]): ...


Own = Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), when_used="json")]


@pytest.mark.parametrize("type_", [Login, list[Login], dict[str, Secret[int]], Login | None, Root, SecretStr])
def test_case_t8_a_result_with_a_secret_that_would_be_lost_is_refused_when_it_is_declared(type_: Any) -> None:
    async def handler(ctx: Context) -> Any: ...

    handler.__annotations__["return"] = type_
    with pytest.raises(DeclarationError, match=r"result can't be stored: .* is a pydantic secret"):
        Service("s").handler()(handler)

    def work(task: Task[int]) -> Any: ...

    work.__annotations__["return"] = type_
    with pytest.raises(DeclarationError, match=r"result can't be sent: .* give it its own serializer"):
        Worker("w").task("tasks")(work)
    with pytest.raises(TypeError, match="is a pydantic secret"):
        codec_for(type_).resolution(Login(password=SecretStr("x")))


def test_case_t8_an_action_whose_result_would_lose_a_secret_is_not_called(run: Runs) -> None:
    called = 0

    def log_in() -> Login:
        nonlocal called
        called += 1
        return Login(password=SecretStr("x"))

    async def handler(ctx: Context) -> None:
        await ctx.run("log in", log_in)

    with pytest.raises(Paused, match=r"ctx.run\('log in'\).* is a pydantic secret"):
        _ = run(handler).value
    assert called == 0


SECRET = SecretStr("x")


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    anything: Any = None


@dataclasses.dataclass(slots=True)
class Slotted:
    anything: Any


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (dict, {"a": SECRET}),
        (list[Any], [SECRET]),
        (Loose, Loose(anything={SECRET: 1})),
        (Loose, Loose(password=SECRET)),  # type: ignore[call-arg]
        (Slotted, Slotted(SECRET)),
        (Any, deque([SECRET])),
        (Any, map(SecretStr, ["x"])),
        (Iterable[Any], iter([SECRET])),
    ],
    ids=["dict", "list", "a key", "an extra field", "slots", "deque", "map", "iterator"],
)
def test_case_t8_a_secret_where_a_type_takes_anything_is_refused_before_it_is_lost(
    type_: Any, value: Any
) -> None:
    with pytest.raises(ValueError, match="it contains a pydantic secret"):
        codec_for(type_).resolution(value)


@pytest.mark.parametrize("value", [Login(password=SecretStr("x")), {"a": [SecretStr("x")]}])
def test_case_t8_a_secret_in_a_value_of_no_declared_type_is_refused_too(run: Runs, value: Any) -> None:
    async def handler(ctx: Context) -> Any:
        return value

    with pytest.raises(Paused, match="it contains a pydantic secret"):
        _ = run(handler).value

    async def publisher(ctx: Context) -> None:
        ctx.publish("tasks", value)

    with pytest.raises(Paused, match=r"can't be encoded: .* a pydantic secret"):
        _ = run(publisher).value


@pytest.mark.parametrize("type_", [Open, Whole])
def test_case_t8_a_secret_with_a_serializer_of_its_own_is_kept(type_: Any) -> None:
    value = type_(password="x")
    assert codec_for(type_).load_written(codec_for(type_).resolution(value).content) == value
    assert codec_for(Own).resolution(SecretStr("x")).content == b'"x"'
    assert codec_for(Any).resolution("**********").content == b'"**********"'


def test_case_t8_an_answer_with_a_secret_is_read(run: Runs) -> None:
    """It is kept as it was sent, so nothing is lost."""

    async def handler(ctx: Context) -> str:
        return (await ctx.awakeable(Login)).password.get_secret_value()

    assert codec_for(Login).decode(b'{"password":"x"}').password.get_secret_value() == "x"
    Service("s").handler()(handler)


# ── names ───────────────────────────────────────────────────────────────────────────────────


def check(value: str) -> str:
    return value


def local() -> type[BaseModel]:
    class Local(BaseModel): ...

    return Local


HERE = __name__


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        (int, "int"),
        (Camel, f"{HERE}.Camel"),
        (list[Camel], f"list[{HERE}.Camel]"),
        (int | None, "Union[int, None]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (
            Annotated[str, AfterValidator(check)],
            f"Annotated[str, pydantic.functional_validators.AfterValidator(func={HERE}.check)]",
        ),
        (Annotated[int, Field(gt=3)], "Annotated[int, Field(metadata=(annotated_types.Gt(gt=3)))]"),
    ],
)
def test_a_type_has_the_same_name_in_every_process(type_: Any, name: str) -> None:
    assert type_name(type_) == name
    assert is_stable(name)


@pytest.mark.parametrize(
    "type_",
    [
        local(),
        list[local()],  # type: ignore[misc]
        create_model("Made", a=(int, 1)),
        Annotated[str, AfterValidator(lambda value: value)],
        Annotated[str, AfterValidator(check.__get__("an instance"))],
    ],
)
def test_a_type_that_another_process_can_not_find_has_no_stable_name(type_: Any) -> None:
    assert not is_stable(type_name(type_))


def test_long_names_are_distinguished() -> None:
    one: Any = str
    other: Any = int
    for _ in range(30):
        one, other = dict[str, one], dict[str, other]
    assert type_name(one) != type_name(other)
    assert len(type_name(one)) < 400


def test_an_answer_is_kept_in_the_form_that_its_kind_has() -> None:
    assert codec_for(bytes).answer(b"x") == Resolution.of_bytes(b"x")
    with pytest.raises(TypeError, match="expected bytes, not int"):
        codec_for(bytes).answer(5)

"""Values of the core as data that JSON can carry, and back.

    None, bool, int, float, str     themselves
    bytes                           {"text": ...} where they are UTF-8, {"latin1": ...} where
                                    they are text for the most part, else {"base64": ...}
    list, tuple                     a list
    mapping                         an object
    an object of the core           an object with its class under "type"

An *encoded* value still holds bytes as bytes: they are spelt out last, after redaction
(`spelt` and `unspelt`).
"""

from __future__ import annotations

import base64
import enum
import importlib
import inspect
import math
import re
from collections.abc import Mapping, Set
from functools import cache
from typing import Any

import attrs

from ..flows.paging import Listing
from ..flows.uploads import UploadSource

_ROOT = __name__.partition(".")[0] + "."
_TAG = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*\.[A-Za-z_][A-Za-z0-9_]*")
# Words that only an encoded value may have as keys; a mapping with one is written as items.
_RESERVED = frozenset({"type", "text", "latin1", "base64", "head", "beside"})
_PRINTABLE = frozenset(range(32, 127)) | {9, 10, 13}
# Lists to which a flow is given a reference: they hold functions, and are the same everywhere.
_LISTS = ("flows.sandboxes", "flows.snapshots")


class CannotEncodeError(Exception):
    """A value is not of the core: no trace can hold it."""


@attrs.frozen
class Handle:
    """What stands for an object of the driver's, which the core only passes on."""


@attrs.frozen
class RecordedSource:
    """What stands for the driver's source of an upload."""

    length: int | None
    repeatable: bool

    def framed(self, head: bytes, tail: bytes) -> Handle:
        """See `UploadSource`."""
        return Handle()


def encode(value: object) -> Any:
    """A value as data.

    :raises CannotEncodeError: it holds something that is not of the core.
    """
    match value:
        case enum.Enum():
            return {"type": _tag(type(value)), "name": value.name}
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"type": "float", "value": repr(value)}
        case bytes() | bytearray() | memoryview():
            return bytes(value)
        case Mapping():
            return _encode_mapping(value)
        case list() | tuple():
            return [encode(item) for item in value]
        case Set():
            return {"type": "set", "items": sorted((encode(item) for item in value), key=repr)}
        case Listing() if (name := _name_of_list(value)) is not None:
            return {"type": "constant", "name": name}
        case BaseException():
            return {"type": _tag(type(value)), "message": str(value), **_state(value, type(value))}
        case _ if (cls := _core_class_of(value)) is not None:
            return {"type": _tag(cls), **_state(value, cls)}
        case _ if callable(value):
            return {"type": "function", "name": _name_of_function(value)}
        case _ if hasattr(value, "framed"):
            source: UploadSource = value  # type: ignore[assignment]
            return encode(RecordedSource(source.length, source.repeatable))
    raise CannotEncodeError(f"{value!r:.100} is not of the core")


def encode_or_name(value: object) -> Any:
    """Like `encode`, but what cannot be encoded is named instead: for what is only compared."""
    try:
        return encode(value)
    except CannotEncodeError:
        return {"type": "handle", "of": type(value).__name__}


def _encode_mapping(value: Mapping[Any, Any]) -> Any:
    if all(isinstance(key, str) for key in value) and not _RESERVED & value.keys():
        return {key: encode(item) for key, item in value.items()}
    return {
        "type": "mapping",
        "items": [[encode(key), encode(item)] for key, item in value.items()],
    }


def _is_of_the_core(cls: type) -> bool:
    return cls.__module__.startswith(_ROOT)


def _core_class_of(value: object) -> type | None:
    """The class of the core that it is, or that its class is made of."""
    return next((cls for cls in type(value).__mro__ if _is_of_the_core(cls)), None)


def _name_of_function(function: Any) -> str:
    """Where the core has it, or what it does the work of (`functools.wraps`).

    :raises CannotEncodeError: the core has nothing of the kind.
    """
    function = inspect.unwrap(function)
    module = getattr(function, "__module__", "") or ""
    name = f"{module.removeprefix(_ROOT)}.{getattr(function, '__qualname__', '<lambda>')}"
    if not module.startswith(_ROOT) or "<" in name:
        raise CannotEncodeError(f"{function!r:.100} is not of the core")
    return name


def _tag(cls: type) -> str:
    if not _is_of_the_core(cls):
        return f"builtins.{cls.__name__}"
    return f"{cls.__module__.removeprefix(_ROOT)}.{cls.__qualname__}"


# Fields that hold a driver's object which the core only passes on.
_PASSED_ON = {("wire.http.StreamedBody", "source"), ("wire.http.Response", "stream")}


def _state(value: object, cls: type) -> dict[str, Any]:
    if attrs.has(cls) and not isinstance(value, BaseException):
        state = {field.name: getattr(value, field.name) for field in attrs.fields(cls)}
    else:
        state = dict(vars(value))
    encoded = {}
    for name, item in state.items():
        if (_tag(cls), name) in _PASSED_ON and item is not None:
            item = Handle()
        if isinstance(value, BaseException):
            encoded[name] = encode_or_name(item)
        else:
            encoded[name] = encode(item)
    return encoded


@cache
def _lists() -> dict[str, Listing[Any]]:
    found = {}
    for module in _LISTS:
        for name, value in vars(importlib.import_module(_ROOT + module)).items():
            if isinstance(value, Listing):
                found[f"{module}.{name}"] = value
    return found


def _name_of_list(value: Listing[Any]) -> str | None:
    return next((name for name, known in _lists().items() if known is value), None)


def decode(data: Any) -> Any:
    """The value behind the data.

    :raises ValueError: the data was not made by `encode`.
    """
    match data:
        case {"type": "set", "items": list(items)}:
            return frozenset(map(decode, items))
        case {"type": "mapping", "items": list(items)}:
            return {decode(key): decode(item) for key, item in items}
        case {"type": "float", "value": str(text)}:
            return float(text)
        case {"type": "function", "name": str(name)}:
            return core_function(name)
        case {"type": "constant", "name": str(name)}:
            if name not in _lists():
                raise ValueError(f"there is no list {name!r}")
            return _lists()[name]
        case {"type": str(tag)}:
            return _decode_object(tag, {key: data[key] for key in data if key != "type"})
        case dict():
            return {key: decode(item) for key, item in data.items()}
        case list():
            return [decode(item) for item in data]
        case _:
            return data


def _decode_object(tag: str, state: dict[str, Any]) -> Any:
    cls = _class_of(tag)
    if issubclass(cls, enum.Enum):
        try:
            return cls[state.get("name", "")]
        except KeyError:
            raise ValueError(f"{tag} has no member {state.get('name')!r}") from None
    if issubclass(cls, BaseException):
        value: Any = cls.__new__(cls, state.pop("message", ""))
    else:
        value = cls.__new__(cls)
    fields = {field.name: field for field in attrs.fields(cls)} if attrs.has(cls) else None
    if fields is not None and not issubclass(cls, BaseException) and fields.keys() != state.keys():
        missing, strange = (
            sorted(fields.keys() - state.keys()),
            sorted(state.keys() - fields.keys()),
        )
        raise ValueError(f"{tag}: missing fields {missing}, unknown fields {strange}")
    for name, item in state.items():
        decoded = decode(item)
        if fields is not None and isinstance(decoded, list) and _is_tuple(fields.get(name)):
            decoded = tuple(tuple(item) if isinstance(item, list) else item for item in decoded)
        object.__setattr__(value, name, decoded)
    return value


def _is_tuple(field: attrs.Attribute[Any] | None) -> bool:
    """Whether a field is declared as a tuple: JSON has only lists."""
    kind = str(field.type) if field is not None else ""
    return kind.startswith(("tuple", "Headers"))


def _class_of(tag: str) -> type:
    """The class of this tag.

    :raises ValueError: the core has no such class.
    """
    value = core_object(tag)
    if not isinstance(value, type):
        raise ValueError(f"the core has no class {tag!r}")
    return value


def core_object(tag: str) -> Any:
    """A class or function of the core, by ``module.Name``.

    :raises ValueError: there is none; the file was made by another version, or by hand.
    """
    module, _, name = tag.rpartition(".")
    if _TAG.fullmatch(tag):
        try:
            value = getattr(importlib.import_module(_ROOT + module), name)
        except (ImportError, AttributeError):
            value = None
        if value is not None and getattr(value, "__module__", "") == _ROOT + module:
            return value
    raise ValueError(f"the core has nothing of the name {tag!r}")


def core_function(name: str) -> Any:
    """A function of the core: ``module.name`` or ``module.Class.name``.

    :raises ValueError: there is none.
    """
    try:
        value = core_object(name)
    except ValueError:
        place, _, own_name = name.rpartition(".")
        value = getattr(core_object(place), own_name, None)
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"the core has no function {name!r}")
    return value


# --- bytes ---------------------------------------------------------------------------


def spelt(data: Any) -> Any:
    """Encoded data with its bytes spelt out."""
    match data:
        case bytes():
            return spelt_bytes(data)
        case dict():
            return {key: spelt(item) for key, item in data.items()}
        case list():
            return [spelt(item) for item in data]
        case _:
            return data


def spelt_bytes(data: bytes) -> dict[str, str]:
    """Bytes as an object of one key."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        if sum(byte in _PRINTABLE for byte in data[:1000]) > len(data[:1000]) * 0.7:
            return {"latin1": data.decode("latin-1")}
        return {"base64": base64.b64encode(data).decode()}


def unspelt(data: Any) -> Any:
    """The reverse of `spelt`.

    :raises ValueError: base64 is malformed.
    """
    match data:
        case {"text": str(text), **rest} if not rest:
            return text.encode()
        case {"latin1": str(text), **rest} if not rest:
            return text.encode("latin-1")
        case {"base64": str(text), **rest} if not rest:
            return base64.b64decode(text, validate=True)
        case dict():
            return {key: unspelt(item) for key, item in data.items()}
        case list():
            return [unspelt(item) for item in data]
        case _:
            return data

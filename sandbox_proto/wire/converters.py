"""From JSON to models, with errors that name the field (cattrs).

The rules of protocol/01 section 10: unknown fields are ignored (and stay reachable in
``raw``), null and absent mean the same. What is of the wrong type is refused rather
than passed on, because it would only fail later and further away. The hooks for the
types which JSON already has are what makes cattrs fast enough here (design section 11).
cattrs itself is loaded with the first answer that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from ..errors import SandboxProtocolError

if TYPE_CHECKING:
    import cattrs

T = TypeVar("T")

_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


def _checking_hook(wanted: type) -> Any:
    def check(value: object, _: type) -> object:
        if type(value) is wanted or (wanted is float and type(value) is int):
            return value
        raise TypeError(f"should be {_NAMES[wanted]}, not {value!r:.60}")

    return check


def _number(value: object, _: type) -> object:
    # Servers may count in fractions (half a CPU) where others count whole ones.
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise TypeError(f"should be a number, not {value!r:.60}")


def _text_map(value: object, _: type) -> object:
    if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
        return value
    raise TypeError(f"should be an object with string values, not {value!r:.60}")


def _object_hook(model: type, converter: cattrs.Converter) -> Any:
    from cattrs.gen import make_dict_structure_fn

    build: Callable[[Any, Any], object] = make_dict_structure_fn(model, converter)

    def check(value: object, kind: type) -> object:
        # cattrs looks for fields in whatever can be asked "in", a string included.
        if isinstance(value, Mapping):
            return build(value, kind)
        raise TypeError(f"should be an object, not {value!r:.60}")

    return check


@cache
def _converter() -> cattrs.Converter:
    import cattrs

    converter = cattrs.Converter()
    converter.register_structure_hook_factory(attrs.has, _object_hook)
    for wanted in _NAMES:
        converter.register_structure_hook(wanted, _checking_hook(wanted))
    converter.register_structure_hook_func(lambda kind: kind == int | float | None, _number)
    converter.register_structure_hook_func(lambda kind: kind == dict[str, str], _text_map)
    return converter


def structure(data: object, model: type[T], *, what: str) -> T:
    """Build a model from parsed JSON.

    :param what: what the server was asked for, for the error's text.
    :raises SandboxProtocolError: a field is missing or of the wrong type; the text names it.
    """
    if not isinstance(data, Mapping):
        raise SandboxProtocolError(
            f"the server's answer for {what} should be a JSON object, not {type(data).__name__}"
        )
    present = {key: value for key, value in data.items() if value is not None}
    try:
        return _converter().structure(present, model)
    except (ExceptionGroup, TypeError, ValueError) as error:
        raise SandboxProtocolError(
            f"the server's answer for {what} is not as the protocol says: {_first_reason(error)}"
        ) from None


def _first_reason(error: BaseException, path: str = "") -> str:
    """The first complaint in cattrs' tree of exceptions, with the path that leads to it."""
    if isinstance(error, ExceptionGroup):
        inner = error.exceptions[0]
        for note in getattr(inner, "__notes__", ()):
            if (name := getattr(note, "name", None)) is not None:
                path = f"{path}.{name}" if path else str(name)
            elif (index := getattr(note, "index", None)) is not None:
                path = f"{path}[{index!r}]"
        return _first_reason(inner, path)
    if isinstance(error, KeyError):
        return f"field {error.args[0]!r} is missing" + (f" in {path!r}" if path else "")
    return f"field {path!r} {error}" if path else str(error)

"""Secrets as the API wants them, and the checks that all builders share (protocol/11 section 1).

No error text here or in the other builders shows a value: it may be the secret itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from .typed_dicts import SandboxProxySecret

_SECRET_TYPES = ("workspace_secret", "opaque")


def workspace_secret(name: str) -> SandboxProxySecret:
    """A reference to a secret that the workspace stores.

    :param name: ``NAME`` or ``{NAME}``.
    :raises ValueError: the name is blank, or has a brace on one end only.
    """
    name = trimmed("name", name)
    opened, closed = name.startswith("{"), name.endswith("}")
    if opened != closed or name == "{":
        raise ValueError("name must be written as NAME or as {NAME}: one of its braces is missing")
    if not opened:
        name = f"{{{name}}}"
    elif not name[1:-1].strip():
        raise ValueError("name must not be empty between its braces")
    return {"type": "workspace_secret", "value": name}


def opaque_secret(value: str) -> SandboxProxySecret:
    """A secret given here and now; the API never shows it again.

    :param value: the secret. Whitespace around it is taken off.
    :raises ValueError: the value is blank.
    """
    return {"type": "opaque", "value": trimmed("value", value)}


# --- for all builders ----------------------------------------------------------------


def trimmed(name: str, value: object) -> str:
    """A string without the whitespace around it.

    :param name: the argument's name, for the error.
    :raises ValueError: it is not a string, or blank.
    """
    return not_blank(name, value).strip()


def not_blank(name: str, value: object) -> str:
    """A string as it is.

    :raises ValueError: it is not a string, or blank.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty or blank")
    return value


def listed(name: str, value: object) -> list[Any]:
    """The items of anything list-like.

    :raises ValueError: it is none: a string, a mapping, or nothing to iterate over.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list, not {type(value).__name__}")
    return list(value)


def listed_objects(name: str, value: object) -> list[dict[str, Any]]:
    """The items of anything list-like that holds only non-empty dictionaries.

    :raises ValueError: it is no such list.
    """
    items = listed(name, value)
    for index, item in enumerate(items):
        if not isinstance(item, dict) or not item:
            raise ValueError(f"{name}[{index}] must be a dictionary that is not empty")
    return items


def text_map(name: str, value: object) -> dict[str, str]:
    """A copy of a mapping from strings to strings, neither of them blank, both untrimmed.

    :raises ValueError: it is no such mapping.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping, not {type(value).__name__}")
    return {
        not_blank(f"a key of {name}", key): not_blank(f"{name}[{key!r}]", item)
        for key, item in value.items()
    }


def stored_secret(name: str, value: object) -> SandboxProxySecret:
    """A secret reduced to the two keys that a server stores.

    :raises ValueError: it is not what `workspace_secret` or `opaque_secret` return.
    """
    if not isinstance(value, dict) or value.get("type") not in _SECRET_TYPES:
        raise ValueError(f"{name} must be made by workspace_secret() or opaque_secret()")
    secret = {"type": value["type"], "value": not_blank(f"{name}'s value", value.get("value"))}
    return cast("SandboxProxySecret", secret)

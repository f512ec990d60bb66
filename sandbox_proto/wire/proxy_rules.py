"""Rules of the egress proxy, which holds credentials outside a sandbox (protocol/11 section 2)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from .secrets import listed, listed_objects, not_blank, text_map, trimmed
from .typed_dicts import SandboxProxyConfig, SandboxProxyRule, SandboxProxySecret


def proxy_config(
    *,
    rules: Sequence[SandboxProxyRule] | None = None,
    no_proxy: Sequence[str] | None = None,
    access_control: dict[str, Any] | None = None,
) -> SandboxProxyConfig:
    """The configuration of a sandbox's egress proxy.

    :param rules: as made by `aws_auth`, `gcp_auth` and `attribution`, or written by hand. The
        first that matches a request is the one that is used. They are passed on as they are.
    :param no_proxy: deprecated and ignored: there is no way past the proxy.
    :param access_control: ``{"allow_list": [...]}`` or ``{"deny_list": [...]}``; not checked here.
    :raises ValueError: a rule cannot work, or an argument is of the wrong type.
    """
    if no_proxy is not None:
        warnings.warn(
            "no_proxy does nothing and is ignored: all traffic of a sandbox goes through its proxy",
            DeprecationWarning,
            stacklevel=2,
        )
    checked = [] if rules is None else listed_objects("rules", rules)
    for index, rule in enumerate(checked):
        _check_rule(f"rules[{index}]", rule)
    config: SandboxProxyConfig = {"rules": checked}
    if access_control is not None:
        if not isinstance(access_control, dict):
            raise ValueError(
                f"access_control must be a dictionary, not {type(access_control).__name__}"
            )
        config["access_control"] = dict(access_control)
    return config


def attribution(
    *, headers: Mapping[str, str], name: str = "attribution", enabled: bool = True
) -> SandboxProxyRule:
    """A rule that marks every request of a sandbox with headers.

    :param headers: names (the server wants them to begin with ``X-``) and values, in order.
    :param name: what the rule is called.
    :param enabled: whether it is in force.
    :raises ValueError: the name is blank, or the headers are no mapping.
    """
    name = trimmed("name", name)
    if not isinstance(headers, Mapping):
        raise ValueError(f"headers must be a mapping, not {type(headers).__name__}")
    return {
        "name": name,
        "type": "attribution",
        "enabled": enabled,
        "headers": [
            {"name": header, "type": "plaintext", "value": value}
            for header, value in headers.items()
        ],
    }


def aws_auth(
    *,
    access_key_id: SandboxProxySecret | None = None,
    secret_access_key: SandboxProxySecret | None = None,
    role_arn: str | None = None,
    session_tags: Mapping[str, str] | None = None,
    name: str = "aws",
    enabled: bool = True,
    env_vars: Mapping[str, str] | None = None,
) -> SandboxProxyRule:
    """Credentials for AWS: a role to assume, or an access key. For the proxy and for mounts.

    :param access_key_id: the id of a static key; with `secret_access_key`.
    :param secret_access_key: its secret.
    :param role_arn: the role's ARN, instead of a static key; empty is none.
    :param session_tags: tags of the role's sessions (not for mounts).
    :param name: what the rule is called.
    :param enabled: whether the proxy uses it.
    :param env_vars: set for every command while the rule is enabled.
    :raises ValueError: not exactly one of role and key is given, or a value is blank.
    """
    given = {
        "role_arn": role_arn,
        "access_key_id": access_key_id,
        "secret_access_key": secret_access_key,
        "session_tags": session_tags,
    }
    name = trimmed("name", name)
    aws = role_block({key: value for key, value in given.items() if value is not None})
    if aws is None:
        if access_key_id is None or secret_access_key is None:
            raise ValueError("give role_arn, or both access_key_id and secret_access_key")
        aws = {"access_key_id": access_key_id, "secret_access_key": secret_access_key}
    return _provider_rule(name, "aws", enabled, aws, env_vars)


def gcp_auth(
    *,
    service_account_json: SandboxProxySecret,
    scopes: Sequence[str] | None = None,
    name: str = "gcp",
    enabled: bool = True,
    env_vars: Mapping[str, str] | None = None,
) -> SandboxProxyRule:
    """Credentials for Google Cloud: a service account. For the proxy and for mounts.

    :param service_account_json: the account's key file.
    :param scopes: OAuth scopes; the proxy demands them, mounts do without.
    :param name: what the rule is called.
    :param enabled: whether the proxy uses it.
    :param env_vars: set for every command while the rule is enabled.
    :raises ValueError: a value is blank, or a list or mapping is empty.
    """
    name = trimmed("name", name)
    gcp: dict[str, Any] = {"service_account_json": service_account_json}
    if scopes is not None:
        gcp["scopes"] = _scopes("scopes", scopes)
    return _provider_rule(name, "gcp", enabled, gcp, env_vars)


def role_block(
    aws: Mapping[str, Any], *, where: str = "", tags_allowed: bool = True
) -> dict[str, Any] | None:
    """The role form of an ``aws`` block, cleaned; None if the block names no role.

    An empty ``role_arn`` is no role; servers send it with static credentials.

    :param where: what stands before the field's name in an error, with its dot.
    :param tags_allowed: whether the role's sessions may be tagged here.
    :raises ValueError: a role stands beside other credentials, or tags stand without a role.
    """
    if aws.get("role_arn", "") == "":
        if aws.get("session_tags"):
            raise ValueError(f"{where}session_tags are for a role: they need role_arn")
        return None
    block: dict[str, Any] = {"role_arn": trimmed(f"{where}role_arn", aws["role_arn"])}
    if "session_tags" in aws:
        if not tags_allowed:
            raise ValueError(f"{where}session_tags are for rules of proxy_config, not for mounts")
        block["session_tags"] = text_map(f"{where}session_tags", aws["session_tags"])
    if others := sorted(str(key) for key in aws.keys() - {"role_arn", "session_tags"}):
        raise ValueError(f"{where}role_arn stands alone: {', '.join(others)} cannot go with a role")
    return block


def _check_rule(where: str, rule: Mapping[str, Any]) -> None:
    match rule.get("type"):
        case "aws":
            if isinstance(aws := rule.get("aws"), dict):
                role_block(aws, where=f"{where}.aws.")
        case "gcp":
            gcp = rule.get("gcp")
            if not isinstance(gcp, dict) or "scopes" not in gcp:
                raise ValueError(f"{where}.gcp.scopes must be given: the proxy needs them")
            _scopes(f"{where}.gcp.scopes", gcp["scopes"])


def _scopes(name: str, scopes: object) -> list[str]:
    cleaned = [
        trimmed(f"{name}[{index}]", scope) for index, scope in enumerate(listed(name, scopes))
    ]
    if not cleaned:
        raise ValueError(f"{name} must not be empty")
    return cleaned


def _provider_rule(
    name: str,
    provider: str,
    enabled: bool,
    block: Mapping[str, Any],
    env_vars: object,
) -> SandboxProxyRule:
    rule: SandboxProxyRule = {
        "name": name,
        "type": provider,
        "enabled": enabled,
        provider: dict(block),
    }
    if env_vars is not None:
        if not isinstance(env_vars, Mapping) or not env_vars:
            raise ValueError("env_vars must be a mapping that is not empty")
        rule["env_vars"] = {
            trimmed("a name in env_vars", key): not_blank(f"env_vars[{key!r}]", value)
            for key, value in env_vars.items()
        }
    return rule

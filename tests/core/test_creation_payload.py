"""The body of a create request (protocol/02 sections 1.1, 1.2, 10 and 11)."""

from __future__ import annotations

import pytest

from sandbox_proto.flows.creation import Creation
from sandbox_proto.wire.creation import CreationSpec
from sandbox_proto.wire.models import RunConfig

from ._helpers import BASE, KEY, Talk, body_json, make_context, reply


def creation(spec=None, *, timeout=30, wait_for_ready=True, headers=None, **settings):
    return Creation(
        make_context(),
        spec or CreationSpec(**settings),
        timeout=timeout,
        wait_for_ready=wait_for_ready,
        headers=headers,
    )


def sent(made):
    """The effect and body of the one POST of a creation that succeeds at once."""
    talk = Talk([reply(201, {"name": made.name})])
    talk.run(made.run())
    [effect] = talk.performed
    return effect, body_json(effect.request)


WAITING = {"name": "box", "wait_for_ready": True, "timeout": 30}


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({}, {}),
        ({"snapshot_id": "s"}, {"snapshot_id": "s"}),
        ({"snapshot": "n:t"}, {"snapshot": "n:t"}),
        ({"snapshot_name": "n"}, {"snapshot_name": "n"}),
        ({"snapshot": "n", "snapshot_name": "n"}, {"snapshot": "n"}),
        ({"snapshot_id": "", "snapshot": "", "snapshot_name": ""}, {}),
        ({"idle_ttl_seconds": 0}, {"idle_ttl_seconds": 0}),
        ({"idle_ttl_seconds": 120}, {"idle_ttl_seconds": 120}),
        ({"delete_after_stop_seconds": 0}, {"delete_after_stop_seconds": 0}),
        ({"delete_after_stop_seconds": 60}, {"delete_after_stop_seconds": 60}),
        ({"persistent": False}, {"persistent": False}),
        ({"persistent": True}, {"persistent": True}),
        ({"preserve_memory_on_stop": False}, {"preserve_memory_on_stop": False}),
        ({"restore_memory": False}, {"restore_memory": False}),
        (
            {"vcpus": 2, "mem_bytes": 1, "fs_capacity_bytes": 0},
            {"vcpus": 2, "mem_bytes": 1, "fs_capacity_bytes": 0},
        ),
        ({"labels": {}}, {"labels": {}}),
        ({"labels": {"a": "b"}}, {"labels": {"a": "b"}}),
        ({"mount_config": {"m": 1}}, {"mount_config": {"m": 1}}),
        ({"proxy_config": {"rules": []}}, {"proxy_config": {"rules": []}}),
        ({"run_config": {}}, {"run_config": {}}),
        ({"run_config": {"user": "u", "new": 1}}, {"run_config": {"user": "u", "new": 1}}),
        ({"run_config": RunConfig()}, {"run_config": {}}),
        ({"run_config": RunConfig(env_vars={"A": "1"})}, {"run_config": {"env_vars": {"A": "1"}}}),
        (
            {"access_delegation": {"mode": "EXPLICIT", "permissions": ("a", "b"), "more": 1}},
            {"access_delegation": {"mode": "EXPLICIT", "permissions": ["a", "b"]}},
        ),
    ],
)
def test_optional_fields_are_sent_exactly_when_they_are_given(settings, fields):
    _, body = sent(creation(name="box", **settings))
    assert body == {**WAITING, **fields}


@pytest.mark.parametrize(
    ("timeout", "wait_for_ready", "fields", "patience"),
    [
        (30, True, {"wait_for_ready": True, "timeout": 30}, 60.0),
        (5, True, {"wait_for_ready": True, "timeout": 5}, 35.0),
        (0, True, {"wait_for_ready": True, "timeout": 0}, 30.0),
        (500, False, {"wait_for_ready": False}, 30.0),
    ],
)
def test_the_server_is_told_how_long_it_may_take_and_given_half_a_minute_more(
    timeout, wait_for_ready, fields, patience
):
    effect, body = sent(creation(name="box", timeout=timeout, wait_for_ready=wait_for_ready))
    assert body == {"name": "box", **fields}
    limits = effect.timeouts
    assert (limits.connect, limits.read, limits.write, limits.pool) == (patience,) * 4


def test_the_request_goes_to_boxes_with_json_and_all_headers():
    effect, _ = sent(creation(name="box", headers={"X-Call": "1"}))
    request = effect.request
    assert (request.method, str(request.url)) == ("POST", f"{BASE}/boxes")
    assert request.headers["content-type"] == "application/json"
    assert (request.headers["x-api-key"], request.headers["x-call"]) == (KEY, "1")


@pytest.mark.parametrize("name", [None, ""])
def test_who_names_no_sandbox_gets_one_with_an_unguessable_name(name):
    made = creation(name=name)
    _, body = sent(made)
    assert body["name"] == made.name
    assert made.name.startswith("sandbox-")
    assert len(made.name) == len("sandbox-") + 12


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"snapshot": "a", "snapshot_name": "b"}, "differ"),
        ({"snapshot_id": "i", "snapshot": "a"}, "not both"),
        ({"snapshot_id": "i", "snapshot_name": "a"}, "not both"),
        ({"idle_ttl_seconds": -60}, "idle_ttl_seconds"),
        ({"idle_ttl_seconds": 61}, "idle_ttl_seconds"),
        ({"idle_ttl_seconds": 1}, "idle_ttl_seconds"),
        ({"idle_ttl_seconds": 60.0}, "idle_ttl_seconds"),
        ({"idle_ttl_seconds": True}, "idle_ttl_seconds"),
        ({"delete_after_stop_seconds": -1}, "delete_after_stop_seconds"),
        ({"delete_after_stop_seconds": 59}, "delete_after_stop_seconds"),
        ({"access_delegation": "EXPLICIT"}, "mapping"),
        ({"access_delegation": {}}, "mode"),
        ({"access_delegation": {"mode": "INHERIT"}}, "mode"),
        ({"access_delegation": {"mode": "EXPLICIT"}}, "permissions"),
        ({"access_delegation": {"mode": "EXPLICIT", "permissions": []}}, "permissions"),
        ({"access_delegation": {"mode": "EXPLICIT", "permissions": "a"}}, "permissions"),
        ({"access_delegation": {"mode": "EXPLICIT", "permissions": {"a"}}}, "permissions"),
        ({"name": "."}, "name"),
        ({"name": ".."}, "name"),
        ({"mount_config": {"x": float("nan")}}, "JSON"),
    ],
)
def test_what_the_server_would_refuse_is_refused_before_anything_is_sent(settings, text):
    with pytest.raises(ValueError, match=text):
        creation(**settings)

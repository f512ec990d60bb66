"""Creating sandboxes on the pure host (protocol/02 section 1, 13 section 1)."""

from __future__ import annotations

import json
import re

import pytest

from sandbox_proto.host.layered import GIB

from ._host import BOXES, House

# --- create (protocol/02 sections 1.1 to 1.4) -----------------------------------------


def test_a_sandbox_with_all_defaults():
    box = House().create(name="box", wait_for_ready=True)
    assert re.fullmatch(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", box["id"])
    assert box["dataplane_url"] == f"http://host.test/v2/sandboxes/{box['id']}"
    expected = {
        "name": "box",
        "status": "ready",
        "status_message": None,
        "created_at": "2026-01-01T00:00:00.000000Z",
        "updated_at": "2026-01-01T00:00:00.000000Z",
        "stopped_at": None,
        "idle_ttl_seconds": 600,
        "delete_after_stop_seconds": 1_209_600,
        "persistent": True,
        "vcpus": 1,
        "cpu_millicores": 1000,
        "mem_bytes": 4 * GIB,
        "labels": {},
        "run_config": {},
        "preserve_memory_on_stop": False,
    }
    assert {name: box[name] for name in expected} == expected
    assert "access_delegation" not in box
    assert not {"env_vars", "generated_name"} & set(box), "these are nobody's business"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"idle_ttl_seconds": 0}, {"idle_ttl_seconds": 0}),
        ({"idle_ttl_seconds": 120}, {"idle_ttl_seconds": 120}),
        ({"idle_ttl_seconds": None}, {"idle_ttl_seconds": 600}),
        ({"delete_after_stop_seconds": 0}, {"delete_after_stop_seconds": 0}),
        ({"persistent": False}, {"persistent": False}),
        ({"vcpus": 2}, {"vcpus": 2, "cpu_millicores": 2000, "mem_bytes": 8 * GIB}),
        ({"vcpus": 0.5}, {"vcpus": 0.5, "cpu_millicores": 500, "mem_bytes": 2 * GIB}),
        ({"vcpus": 16}, {"vcpus": 16, "mem_bytes": 64 * GIB}),
        ({"cpu_millicores": 500, "vcpus": 4}, {"vcpus": 0.5, "cpu_millicores": 500}),
        ({"cpu_millicores": 3000}, {"vcpus": 3, "cpu_millicores": 3000, "mem_bytes": 12 * GIB}),
        ({"mem_bytes": 8 * GIB}, {"vcpus": 2, "mem_bytes": 8 * GIB}),
        ({"vcpus": 2, "mem_bytes": 4 * GIB}, {"vcpus": 2, "mem_bytes": 4 * GIB}),
        ({"vcpus": 2, "mem_bytes": 12 * GIB}, {"vcpus": 2, "mem_bytes": 12 * GIB}),
        ({"fs_capacity_bytes": GIB}, {"fs_capacity_bytes": GIB}),
        ({"labels": {"a": "b"}}, {"labels": {"a": "b"}}),
        ({"run_config": {"user": "u", "odd": 1}}, {"run_config": {"user": "u"}}),
        (
            {"run_config": {"work_dir": "/w", "env_vars": {"A": "1"}}},
            {"run_config": {"work_dir": "/w", "env_vars": {"A": "1"}}},
        ),
        (
            {"access_delegation": {"mode": "INHERIT"}},
            {"access_delegation": {"mode": "INHERIT"}},
        ),
        (
            {"snapshot": "system/default:latest"},
            {"snapshot_id": "00000000-0000-4000-8000-000000000001"},
        ),
        ({"no_such_field": 1, "timeout": 5}, {}),
        ({"preserve_memory_on_stop": False, "restore_memory": False}, {}),
        ({"proxy_config": {}, "mount_config": None, "volumes": []}, {}),
    ],
)
def test_what_is_asked_for_is_echoed(body, fields):
    box = House().create(**body)
    assert {name: box[name] for name in fields} == fields


@pytest.mark.parametrize(
    ("body", "field"),
    [
        # 1.2
        ({"idle_ttl_seconds": -60}, "idle_ttl_seconds"),
        ({"idle_ttl_seconds": 61}, "idle_ttl_seconds"),
        ({"idle_ttl_seconds": 60.5}, "idle_ttl_seconds"),
        ({"idle_ttl_seconds": "60"}, "idle_ttl_seconds"),
        ({"idle_ttl_seconds": True}, "idle_ttl_seconds"),
        ({"delete_after_stop_seconds": 1}, "delete_after_stop_seconds"),
        # 1.4
        ({"vcpus": 0}, "vcpus"),
        ({"vcpus": -1}, "vcpus"),
        ({"vcpus": 16.5}, "vcpus"),
        ({"vcpus": "2"}, "vcpus"),
        ({"vcpus": True}, "vcpus"),
        ({"cpu_millicores": 0}, "cpu_millicores"),
        ({"cpu_millicores": 0.5}, "cpu_millicores"),
        ({"mem_bytes": 65 * GIB}, "mem_bytes"),
        ({"mem_bytes": -1}, "mem_bytes"),
        ({"vcpus": 2, "mem_bytes": 4 * GIB - 1}, "mem_bytes"),
        ({"vcpus": 2, "mem_bytes": 12 * GIB + 1}, "mem_bytes"),
        ({"fs_capacity_bytes": 0}, "fs_capacity_bytes"),
        ({"fs_capacity_bytes": "1G"}, "fs_capacity_bytes"),
        # types
        ({"persistent": "yes"}, "persistent"),
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": ["a"]}, "labels"),
        ({"env_vars": {"A=B": "1"}}, "env_vars"),
        ({"env_vars": {"A": "1\0"}}, "env_vars"),
        ({"run_config": "root"}, "run_config"),
        ({"run_config": {"user": 0}}, "run_config"),
        ({"run_config": {"work_dir": "relative"}}, "run_config"),
        ({"run_config": {"env_vars": {"A": 1}}}, "env_vars"),
        ({"timeout": "soon", "wait_for_ready": True}, "timeout"),
        ({"timeout": -1, "wait_for_ready": True}, "timeout"),
        # what this host cannot do
        ({"proxy_config": {"rules": [1]}}, "proxy_config"),
        ({"mount_config": {"m": 1}}, "mount_config"),
        ({"volumes": [{}]}, "volumes"),
        ({"preserve_memory_on_stop": True}, "preserve_memory_on_stop"),
        ({"restore_memory": True}, "restore_memory"),
        # 13 number 9
        ({"name": "Upper"}, "name"),
        ({"name": "-dash"}, "name"),
        ({"name": "."}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "x" * 64}, "name"),
        ({"name": "caf\u00e9"}, "name"),
        ({"name": 5}, "name"),
        ({"name": "11111111-2222-3333-4444-555555555555"}, "name"),
        ({"name": "11111111222233334444555555555555"}, "name"),
    ],
)
def test_what_cannot_be_is_a_422_that_clients_take_for_a_validation_error(body, field):
    answer = House().ask("POST", BOXES, body)
    assert answer.status == 422
    [complaint] = json.loads(answer.body)["detail"]
    assert complaint["loc"][-1] == field
    assert complaint["type"] == "value_error"
    assert complaint["msg"]


@pytest.mark.parametrize("body", [{"name": "Upper"}, {"vcpus": 0}, {"idle_ttl_seconds": 1}])
def test_a_refused_creation_leaves_no_record(body):
    house = House()
    house.ask("POST", BOXES, body)
    assert (house.host.boxes, house.effects) == ({}, [])


@pytest.mark.parametrize("name", ["a", "0", "x" * 63, "a-b_c.d", "sandbox-1"])
def test_names_a_sandbox_may_have(name):
    assert House().create(name=name)["name"] == name


@pytest.mark.parametrize("body", [b"[]", b"nope", b'"x"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_a_400(body):
    answer = House().ask("POST", BOXES, body)
    assert (answer.status, answer.payload["detail"]["error"]) == (400, "InvalidRequest")


@pytest.mark.parametrize("body", [b"", b"  ", b"{}"])
def test_a_sandbox_may_be_created_with_nothing_said(body):
    answer = House().ask("POST", BOXES, body)
    assert answer.status == 201
    assert re.fullmatch(r"sandbox-[0-9a-f]{12}", answer.payload["name"])


@pytest.mark.parametrize("field", ["snapshot", "snapshot_id", "snapshot_name"])
def test_an_unknown_snapshot_is_a_400(field):
    assert House().ask("POST", BOXES, {field: "python:3.12"}).status == 400


def test_a_taken_name_is_a_conflict_and_free_again_after_the_deletion():
    house = House()
    box = house.create(name="box")
    answer = house.ask("POST", BOXES, {"name": "box"})
    assert (answer.status, answer.payload["detail"]["error"]) == (409, "Conflict")
    house.ask("DELETE", f"{BOXES}/box")
    assert house.create(name="box")["id"] != box["id"]


# --- waiting for it (13 numbers 3 to 6) -----------------------------------------------


def test_the_record_is_saved_before_the_sandbox_is_built():
    house = House()
    house.create(name="box")
    assert house.kinds() == ["Save", "BuildSandbox", "Save"]
    assert [record.document["status"] for record in house.saved()] == ["provisioning", "ready"]


def test_who_does_not_wait_is_answered_at_once():
    house = House()
    house.on_boot = None
    assert house.create(name="box")["status"] == "provisioning"
    assert house.now == 0.0


@pytest.mark.parametrize(
    ("body", "seconds"), [({"timeout": 7}, 7.0), ({"timeout": 0}, 0.0), ({}, 30.0)]
)
@pytest.mark.parametrize(("name", "kept"), [("mine", True), (None, False)])
def test_a_sandbox_not_ready_in_time_is_a_408_and_kept_only_if_it_can_be_named(
    body, seconds, name, kept
):
    house = House()
    house.on_boot = None
    named = {"name": name} if name else {}
    answer = house.ask("POST", BOXES, {"wait_for_ready": True, **named, **body})
    assert (answer.status, answer.payload["detail"]["error"]) == (408, "Timeout")
    assert house.now == seconds
    assert bool(house.host.boxes) == kept
    assert ("Demolish" in house.kinds()) != kept


@pytest.mark.parametrize("name", ["mine", None])
def test_a_boot_failure_is_a_creation_error_and_leaves_nothing(name):
    house = House()
    house.on_boot = house.fail
    body = {"wait_for_ready": True} | ({"name": name} if name else {})
    answer = house.ask("POST", BOXES, body)
    assert answer.status == 422
    assert answer.payload["detail"] == {"error": "SandboxConfig", "message": "no disk"}
    assert house.host.boxes == {}
    assert house.kinds()[-2:] == ["Save", "Demolish"]
    assert house.saved()[-1].document is None


def test_a_sandbox_deleted_while_it_boots_is_not_reported_as_made():
    house = House()
    house.on_boot = lambda box_id: house.ask("DELETE", f"{BOXES}/{box_id}")
    assert house.ask("POST", BOXES, {"wait_for_ready": True}).status == 409


def test_a_boot_that_ends_after_the_deletion_is_not_wanted_any_more():
    house = House()
    house.on_boot = None
    box = house.create()
    house.ask("DELETE", f"{BOXES}/{box['id']}")
    house.boot(box["id"])
    assert house.kinds()[-1] == "Demolish"
    assert house.host.boxes == {}

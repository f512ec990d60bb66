"""From JSON to models (protocol/01 section 10, protocol/02 section 1.3)."""

from __future__ import annotations

import copy
import random

import attrs
import pytest

from sandbox_proto.errors import SandboxProtocolError
from sandbox_proto.wire.command_models import ExecutionResult, MissingOutput
from sandbox_proto.wire.models import ResourceStatus, RunConfig, SandboxRecord

FULL = {
    "name": "box",
    "dataplane_url": "https://d.test",
    "id": "11111111-2222-3333-4444-555555555555",
    "status": "stopped",
    "status_message": "why",
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-02T00:00:00Z",
    "idle_ttl_seconds": 0,
    "delete_after_stop_seconds": 60,
    "stopped_at": "2026-01-03T00:00:00Z",
    "snapshot_id": "snap",
    "vcpus": 2,
    "mem_bytes": 1024,
    "fs_capacity_bytes": 2048,
    "run_config": {"user": "me", "work_dir": "/w", "env_vars": {"A": "1"}},
    "access_delegation": {"mode": "EXPLICIT", "permissions": ["a:b"]},
    "preserve_memory_on_stop": True,
    "labels": {"team": "x"},
}


def test_every_documented_field_is_read():
    record = SandboxRecord.parse(FULL)
    expected = {**FULL, "run_config": RunConfig("me", "/w", {"A": "1"})}
    assert {name: getattr(record, name) for name in FULL} == expected


def test_an_empty_object_is_a_ready_sandbox_without_a_name():
    record = SandboxRecord.parse({})
    assert (record.name, record.status, record.dataplane_url) == ("", "ready", None)


@pytest.mark.parametrize("field", sorted(FULL))
def test_null_means_the_same_as_absent(field):
    without = {key: value for key, value in FULL.items() if key != field}
    assert SandboxRecord.parse({**FULL, field: None}) == SandboxRecord.parse(without)


def test_null_inside_a_run_config_means_the_same_as_absent():
    record = SandboxRecord.parse({"run_config": {"user": None, "work_dir": "/w"}})
    assert record.run_config == RunConfig(work_dir="/w")


def test_unknown_fields_are_ignored_and_survive_in_raw():
    data = {**FULL, "size_class": "large", "new": {"deep": [1, None]}, "stopped_at": None}
    record = SandboxRecord.parse(data)
    assert record.raw == data


def test_raw_is_ours_even_if_the_server_has_a_field_of_that_name():
    assert SandboxRecord.parse({"raw": 5}).raw == {"raw": 5}


def test_raw_neither_shows_nor_counts_for_equality():
    left, right = (SandboxRecord.parse({"name": "a", "secret": value}) for value in ("s1", "s2"))
    assert left == right
    assert "s1" not in repr(left)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"name": 5}, "name"),
        ({"status": ["ready"]}, "status"),
        ({"dataplane_url": {}}, "dataplane_url"),
        ({"idle_ttl_seconds": "600"}, "idle_ttl_seconds"),
        ({"idle_ttl_seconds": 1.5}, "idle_ttl_seconds"),
        ({"mem_bytes": True}, "mem_bytes"),
        ({"preserve_memory_on_stop": "yes"}, "preserve_memory_on_stop"),
        ({"preserve_memory_on_stop": 1}, "preserve_memory_on_stop"),
        ({"vcpus": "2"}, "vcpus"),
        ({"vcpus": False}, "vcpus"),
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": ["a"]}, "labels"),
        ({"run_config": {"user": 0}}, "run_config.user"),
        ({"run_config": {"env_vars": {"A": 1}}}, "run_config.env_vars"),
    ],
)
def test_a_wrong_type_is_refused_and_the_field_named(data, path):
    with pytest.raises(SandboxProtocolError) as caught:
        SandboxRecord.parse(data)
    assert f"'{path}'" in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "text", 5, True])
def test_what_is_no_object_is_no_sandbox(data):
    with pytest.raises(SandboxProtocolError, match="should be a JSON object"):
        SandboxRecord.parse(data)


def test_a_run_config_that_is_no_object_is_refused():
    with pytest.raises(SandboxProtocolError, match="run_config"):
        SandboxRecord.parse({"run_config": "root"})


def test_fractions_of_a_cpu_are_welcome():
    assert SandboxRecord.parse({"vcpus": 0.5}).vcpus == 0.5


@pytest.mark.parametrize(
    ("delegation", "kept"),
    [
        ({"mode": "EXPLICIT", "permissions": ["a"]}, True),
        ({"mode": "EXPLICIT", "permissions": []}, False),
        ({"mode": "EXPLICIT"}, False),
        ({"mode": "EXPLICIT", "permissions": "a"}, False),
        ({"mode": "INHERIT", "permissions": ["a"]}, False),
        ({}, False),
        ("EXPLICIT", False),
        (None, False),
    ],
)
def test_only_an_explicit_delegation_with_permissions_counts(delegation, kept):
    record = SandboxRecord.parse({"access_delegation": delegation})
    assert record.access_delegation == (delegation if kept else None)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({}, ResourceStatus("provisioning", None)),
        ({"status": None, "status_message": None}, ResourceStatus("provisioning", None)),
        ({"status": "failed", "status_message": "oom"}, ResourceStatus("failed", "oom")),
        ({"status": "brand-new"}, ResourceStatus("brand-new", None)),
    ],
)
def test_status_answers(data, status):
    assert ResourceStatus.from_dict(data) == status


@pytest.mark.parametrize(
    ("config", "payload"),
    [
        (RunConfig(), {}),
        (RunConfig(user="0"), {"user": "0"}),
        (RunConfig(work_dir="/w", env_vars={}), {"work_dir": "/w", "env_vars": {}}),
    ],
)
def test_a_run_config_sends_only_what_is_set(config, payload):
    assert config.to_payload() == payload
    assert RunConfig.from_dict(payload) == config


@pytest.mark.parametrize(
    ("code", "missing", "success", "complete"),
    [
        (0, (), True, True),
        (1, (), False, True),
        (0, (MissingOutput("stdout", 0, 3),), True, False),
    ],
)
def test_results_say_whether_all_went_well_and_nothing_is_missing(code, missing, success, complete):
    result = ExecutionResult("out", "err", code, missing)
    assert (result.success, result.complete) == (success, complete)


def test_the_positional_order_of_a_result_is_the_vendors():
    assert [field.name for field in attrs.fields(ExecutionResult)][:3] == [
        "stdout",
        "stderr",
        "exit_code",
    ]


def _outcome(parse, data):
    try:
        record = parse(copy.deepcopy(data))
    except SandboxProtocolError as error:
        return str(error)
    return record, record.raw


def test_a_plain_sandbox_is_read_as_a_judged_one(sweep):
    """The quick way and the slow one agree, whatever the fields hold and whichever there are."""
    chance = random.Random(8)
    values = [None, "x", "", 0, 7, 2.5, True, [], ["x"], {}, {"A": "1"}, {"A": None}, {"user": 5}]
    values += [{"user": "me", "env_vars": {"A": 1}}, {"env_vars": ["A"]}, {"work_dir": "/w"}]
    values += [{"mode": "EXPLICIT", "permissions": ["a:b"]}, {"mode": "NONE"}]
    quick = 0
    for _ in range(2000 * sweep):
        names = chance.sample(sorted(FULL), chance.randint(0, len(FULL)))
        data = {name: FULL[name] for name in names if name != "access_delegation"}
        for name in chance.sample([*FULL, "unknown", "raw"], chance.choice([0, 0, 1, 1, 2, 3])):
            data[name] = chance.choice(values)
        quick += SandboxRecord.parse_plain(copy.deepcopy(data)) is not None
        assert _outcome(SandboxRecord.parse, data) == _outcome(SandboxRecord._parse_judging, data)
    assert quick > 200 * sweep


@pytest.mark.parametrize("field", sorted(FULL))
def test_the_shape_of_one_sandbox_does_not_vouch_for_the_next(field):
    plain = {name: FULL[name] for name in FULL if name != "access_delegation"}
    assert SandboxRecord.parse_plain({**plain}) is not None
    wrong = {**plain, field: [FULL[field]]}
    assert _outcome(SandboxRecord.parse, wrong) == _outcome(SandboxRecord._parse_judging, wrong)
    assert SandboxRecord.parse_plain(wrong) is None

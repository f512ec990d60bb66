"""What time and use do to a sandbox (protocol/02 section 1.5, 13 numbers 15 to 21)."""

from __future__ import annotations

import json

import pytest

from sandbox_proto.host.effects import DropLayers

from ._host import BOXES, WALL, House, refusal_of

MINUTE = 60.0


def status_of(house: House, name: str = "box") -> str:
    return house.ask("GET", f"{BOXES}/{name}/status").payload["status"]


def test_an_idle_sandbox_is_stopped_after_its_ttl_and_deleted_after_its_time():
    house = House()
    house.create(name="box", idle_ttl_seconds=120, delete_after_stop_seconds=180)
    house.pass_time(119)
    assert status_of(house) == "ready"
    house.pass_time(1)
    assert status_of(house) == "stopped"
    assert house.kinds()[-1] == "Halt"
    house.pass_time(179)
    assert status_of(house) == "stopped"
    house.pass_time(2)
    assert house.ask("GET", f"{BOXES}/box").status == 404
    assert house.kinds()[-1] == "Demolish"


def test_the_next_moment_is_told_exactly():
    house = House()
    assert house.host.next_deadline() is None
    house.create(name="box", idle_ttl_seconds=120, delete_after_stop_seconds=60)
    assert house.host.next_deadline() == 120
    house.pass_time(120)
    assert house.host.next_deadline() == pytest.approx(180, abs=0.001)


def test_zero_means_never():
    house = House()
    house.create(name="box", idle_ttl_seconds=0)
    assert house.host.next_deadline() is None
    house.ask("POST", f"{BOXES}/box/stop")
    house.ask("PATCH", f"{BOXES}/box", {"delete_after_stop_seconds": 0})
    house.pass_time(10**9)
    assert status_of(house) == "stopped"


def test_use_restarts_the_idle_clock_and_looking_does_not():
    house = House()
    box = house.create(name="box", idle_ttl_seconds=60)
    house.pass_time(50)
    house.run(house.host.open_box("box", now=house.now))
    house.pass_time(50)
    assert status_of(house) == "ready"
    house.ask("GET", f"{BOXES}/{box['id']}")
    house.ask("GET", BOXES)
    house.pass_time(10)
    assert status_of(house) == "stopped"


def test_what_holds_a_sandbox_keeps_it_awake_and_its_end_counts_as_use():
    house = House()
    box = house.create(name="box", idle_ttl_seconds=60)
    house.host.hold(box["id"], now=house.now)
    house.host.hold(box["id"], now=house.now)
    house.pass_time(1000)
    house.host.release(box["id"], now=house.now)
    house.pass_time(1000)
    assert status_of(house) == "ready"
    house.host.release(box["id"], now=house.now)
    house.pass_time(59)
    assert status_of(house) == "ready"
    house.pass_time(1)
    assert status_of(house) == "stopped"


def test_a_changed_deletion_delay_counts_from_the_recorded_stop():
    house = House()
    house.create(name="box", delete_after_stop_seconds=6000)
    house.ask("POST", f"{BOXES}/box/stop")
    house.pass_time(100)
    house.ask("PATCH", f"{BOXES}/box", {"delete_after_stop_seconds": 120})
    house.pass_time(19)
    assert status_of(house) == "stopped"
    house.pass_time(2)
    assert house.ask("GET", f"{BOXES}/box").status == 404


@pytest.mark.parametrize("persistent", [True, False])
def test_a_stop_keeps_the_files_only_of_a_persistent_sandbox(persistent):
    house = House()
    house.create(name="box", persistent=persistent)
    house.effects.clear()
    assert house.ask("POST", f"{BOXES}/box/stop").status == 204
    assert house.kinds() == ["Save", "Halt", *([] if persistent else ["Discard"])]
    assert house.ask("GET", f"{BOXES}/box").payload["stopped_at"]


def test_start_and_stop_have_no_effect_where_there_is_nothing_to_do():
    house = House()
    house.create(name="box")
    house.effects.clear()
    assert house.ask("POST", f"{BOXES}/box/start", {}).status == 202
    house.ask("POST", f"{BOXES}/box/stop")
    house.effects.clear()
    assert house.ask("POST", f"{BOXES}/box/stop").status == 204
    assert house.effects == []


@pytest.mark.parametrize("first", ["stopped", "failed"])
def test_start_builds_what_is_stopped_or_failed_and_is_provisioning_at_once(first):
    house = House()
    house.create(name="box")
    if first == "stopped":
        house.ask("POST", f"{BOXES}/box/stop")
    else:
        house.run(house.host.died(house.host.find_box("box").id, "it died"))
    assert status_of(house) == first
    house.on_boot = None
    answer = house.ask("POST", f"{BOXES}/box/start", {})
    assert (answer.status, answer.payload["status"]) == (202, "provisioning")
    assert (answer.payload["stopped_at"], answer.payload["status_message"]) == (None, None)
    house.boot(answer.payload["id"])
    assert status_of(house) == "ready"


@pytest.mark.parametrize("status", ["provisioning", "failed"])
def test_only_a_ready_sandbox_can_be_stopped(status):
    house = House()
    house.create(name="box")
    house.host.find_box("box").status = status
    assert house.ask("POST", f"{BOXES}/box/stop").status == 409


def test_a_sandbox_that_is_never_built_fails_by_itself():
    house = House()
    house.on_boot = None
    house.create(name="box")
    house.pass_time(599)
    assert status_of(house) == "provisioning"
    house.pass_time(1)
    assert status_of(house) == "failed"


def test_a_sandbox_whose_processes_died_has_failed_and_says_why():
    house = House()
    box = house.create(name="box")
    house.run(house.host.died(box["id"], "ended from inside"))
    payload = house.ask("GET", f"{BOXES}/box/status").payload
    assert payload == {"status": "failed", "status_message": "ended from inside"}


def test_an_update_changes_all_that_is_asked_or_nothing():
    house = House()
    before = house.create(name="box", run_config={"user": "0", "env_vars": {"A": "1", "B": "2"}})
    refused = house.ask("PATCH", f"{BOXES}/box", {"name": "new", "idle_ttl_seconds": 61})
    assert refused.status == 422
    assert house.ask("GET", f"{BOXES}/box").payload == before
    changed = house.ask(
        "PATCH",
        f"{BOXES}/box",
        {
            "name": "new",
            "idle_ttl_seconds": 0,
            "run_config": {"work_dir": "/w", "env_vars": {"B": "3"}},
            "mem_bytes": 64 * 1024**3,
            "tag_value_ids": ["t"],
        },
    ).payload
    assert (changed["name"], changed["id"]) == ("new", before["id"])
    assert changed["run_config"] == {
        "user": "0",
        "work_dir": "/w",
        "env_vars": {"A": "1", "B": "3"},
    }
    assert (changed["idle_ttl_seconds"], changed["mem_bytes"]) == (0, 64 * 1024**3)
    assert changed["updated_at"] > before["updated_at"]
    assert house.ask("GET", f"{BOXES}/box").status == 404


def test_an_empty_update_changes_nothing():
    house = House()
    box = house.create(name="box")
    house.effects.clear()
    assert house.ask("PATCH", f"{BOXES}/box", {}).payload == box
    assert house.effects == []


def test_a_rename_to_a_taken_name_is_a_conflict():
    house = House()
    house.create(name="one")
    house.create(name="two")
    assert house.ask("PATCH", f"{BOXES}/one", {"name": "two"}).status == 409
    assert house.ask("PATCH", f"{BOXES}/one", {"name": "one"}).status == 200


def test_a_batch_deletes_what_it_can_and_says_what_it_could_not():
    house = House()
    for name in ("a", "b"):
        house.create(name=name)
    answer = house.ask("POST", f"{BOXES}/batch-delete", {"names": ["a", "x", "b"]}).payload
    assert answer["deleted"] == ["a", "b"]
    assert [skipped["name"] for skipped in answer["skipped"]] == ["x"]


# --- after a crash --------------------------------------------------------------------


def reborn(house: House, *layers: str) -> House:
    """A host that begins with the records of another one that was killed."""
    latest = {(record.kind, record.key): record for record in house.saved()}
    again = House()
    again.host = type(house.host)(
        house.host.settings,
        entropy=house.host.entropy,
        records=json_round_trip(latest.values()),
    )
    again.run(again.host.recover(layers, now=again.now))
    return again


def json_round_trip(records):
    from sandbox_proto.host.effects import Record

    return [
        Record(record.kind, record.key, json.loads(json.dumps(record.document)))
        for record in records
    ]


def test_what_ran_is_stopped_and_what_was_being_made_has_failed():
    house = House()
    house.create(name="ran")
    house.on_boot = None
    house.create(name="booting")
    again = reborn(house)
    assert {box.name: box.status for box in again.host.boxes.values()} == {
        "ran": "stopped",
        "booting": "stopped",
    }
    assert again.run(again.host.open_box("ran", now=again.now)).status == "ready"


def test_fleeting_files_do_not_survive_a_crash():
    house = House()
    house.create(name="box", persistent=False)
    again = reborn(house)
    assert again.kinds().count("Discard") == 1


@pytest.mark.parametrize("moved", [True, False])
def test_a_capture_cut_short_loses_no_files(moved):
    """The files had, or had not, become a layer when the host died."""
    house = House()
    box = house.create(name="box")
    record = house.host.find_box("box")
    record.pending_layer = "capture-x"
    house.run(house.host.save_box(record))
    again = reborn(house, *(["capture-x"] if moved else []))
    revived = again.host.boxes[box["id"]]
    assert revived.layers == (["capture-x"] if moved else [])
    assert revived.pending_layer is None
    assert "capture-x" not in again.host.layers_in_use() or moved


def test_a_layer_is_dropped_with_its_last_user():
    house = House()
    house.create(name="one")
    house.create(name="two")
    for name in ("one", "two"):
        house.host.find_box(name).layers = ["shared"]
    house.ask("DELETE", f"{BOXES}/one")
    assert "DropLayers" not in house.kinds()
    house.ask("DELETE", f"{BOXES}/two")
    assert house.effects[-1] == DropLayers(("shared",))


def test_timestamps_are_of_the_wall_clock():
    house = House()
    house.now = 5.0
    assert house.create(name="box")["created_at"] == "2026-01-01T00:00:05.000000Z"
    assert WALL == 1_767_225_600.0


def test_who_is_gone_is_gone_for_sockets_too():
    house = House()
    error = refusal_of(lambda: house.run(house.host.open_box_for_socket("box", now=0.0)))
    assert error.status == 410

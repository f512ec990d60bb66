"""The control plane of the pure host (protocol/02, 13 section 1)."""

from __future__ import annotations

import json

import pytest

from sandbox_proto.errors import LocalProtocolError
from sandbox_proto.host.boxes import Box
from sandbox_proto.host.effects import Record
from sandbox_proto.host.routing import Match, find_route
from sandbox_proto.host.state import HostSettings

from ._host import BOXES, KEY, House, refusal_of

# --- routing (protocol/01 sections 3 and 9, 13 number 1) ------------------------------


@pytest.mark.parametrize("prefix", ["/api/v2/sandboxes", "/v2/sandboxes", ""])
@pytest.mark.parametrize(
    ("method", "path", "match"),
    [
        ("POST", "/boxes", Match("create_box", ())),
        ("GET", "/boxes", Match("list_boxes", ())),
        ("GET", "/boxes/x", Match("get_box", ("x",))),
        ("DELETE", "/boxes/x", Match("delete_box", ("x",))),
        ("GET", "/boxes/x/status", Match("get_status", ("x",))),
        ("GET", "/x/execute/ws", Match("exec_socket", ("x",))),
        ("POST", "/x/upload", Match("upload", ("x",))),
        ("GET", "/x/download", Match("download", ("x",))),
        ("HEAD", "/x/download", Match("download", ("x",))),
        # The path is split before it is decoded.
        ("GET", "/boxes/a%2Fb", Match("get_box", ("a/b",))),
        ("GET", "/boxes/a%2Fstatus", Match("get_box", ("a/status",))),
        ("GET", "/boxes/a%252Fb", Match("get_box", ("a%2Fb",))),
        ("GET", "/boxes/caf%C3%A9", Match("get_box", ("caf\u00e9",))),
        ("GET", "/boxes/a+b", Match("get_box", ("a+b",))),
    ],
)
def test_routes_under_every_prefix(prefix, method, path, match):
    assert find_route(method, prefix + path) == match


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/v2/sandboxes/boxes", 405),
        ("POST", "/v2/sandboxes/boxes/x", 405),
        ("HEAD", "/v2/sandboxes/boxes", 405),
        ("get", "/v2/sandboxes/boxes", 405),
        ("POST", "/v2/sandboxes/x/execute/ws", 405),
        ("GET", "/v2/sandboxes/nothing", 404),
        ("GET", "/v2/sandboxes/boxes/x/", 404),
        ("GET", "/v2/sandboxes/boxes/x/y/z", 404),
        ("GET", "/v2/sandboxes//boxes", 404),
        ("GET", "/v2/sandboxes/BOXES", 404),
        ("GET", "/v2/sandboxes/boxes%2Fx", 404),
        ("GET", "/v2/sandboxes", 404),
        ("GET", "/", 404),
        ("GET", "", 404),
        ("GET", "/api/v2/sandboxes/v2/sandboxes/boxes", 404),
    ],
)
def test_what_is_not_there(method, path, status):
    error = refusal_of(lambda: find_route(method, path))
    assert error.status == status
    assert error.type == {404: "NotFound", 405: "MethodNotAllowed"}[status]


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("DELETE", "/"), ("GET", "//status")])
def test_an_empty_segment_is_a_name_nobody_has(method, path):
    house = House()
    house.create()
    assert house.ask(method, BOXES + path).status == 404
    assert len(house.host.boxes) == 1


def test_the_data_plane_is_not_the_control_planes():
    with pytest.raises(LocalProtocolError):
        House().ask("GET", "/v2/sandboxes/x/download")


# --- authentication (13 numbers 30 and 31) --------------------------------------------


@pytest.mark.parametrize(
    ("keys", "given", "status"),
    [
        (("a", "b"), "a", 200),
        (("a", "b"), "b", 200),
        (("a",), "A", 401),
        (("a",), "", 401),
        (("a",), "ab", 401),
        (("a",), "\u00e9", 401),
        ((), "", 200),
        ((), "anything", 200),
    ],
)
def test_the_key_must_be_one_of_the_hosts_if_it_has_any(keys, given, status):
    assert House(keys=keys).ask("GET", BOXES, x_api_key=given).status == status


def test_a_refused_request_changes_nothing():
    house = House()
    answer = house.ask("POST", BOXES, {"name": "x"}, x_api_key="wrong")
    assert answer.payload["detail"]["error"] == "Unauthorized"
    assert (house.effects, house.host.boxes) == ([], {})


def test_keys_do_not_show():
    assert KEY not in repr(HostSettings(api_keys=(KEY,)))


# --- get, list, status, delete --------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "id"])
def test_every_call_takes_name_or_id(by):
    house = House()
    box = house.create(name="box")
    path = f"{BOXES}/{box[by]}"
    assert house.ask("GET", path).payload["id"] == box["id"]
    status = house.ask("GET", path + "/status")
    assert status.payload == {"status": "ready", "status_message": None}
    gone = house.ask("DELETE", path)
    assert (gone.status, gone.body) == (204, b"")
    assert house.host.boxes == {}


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/status"), ("DELETE", "")])
def test_a_sandbox_that_is_not_there_is_a_404(method, path):
    answer = House().ask(method, f"{BOXES}/nobody{path}")
    assert (answer.status, answer.payload["detail"]["error"]) == (404, "NotFound")


def test_a_failed_sandbox_says_why():
    house = House()
    house.on_boot = house.fail
    house.create(name="box")
    expected = {"status": "failed", "status_message": "no disk"}
    assert house.ask("GET", f"{BOXES}/box/status").payload == expected


def test_the_list_has_everything_in_both_fields_newest_first():
    house = House()
    for moment, name in enumerate(["a", "b", "c"]):
        house.now = float(moment)
        house.create(name=name)
    payload = house.ask("GET", BOXES).payload
    assert [box["name"] for box in payload["items"]] == ["c", "b", "a"]
    assert payload["sandboxes"] == payload["items"]
    assert (payload["next_cursor"], payload["offset"]) == (None, 0)
    some = house.ask("GET", BOXES, query="name_contains=b").payload["items"]
    assert [box["name"] for box in some] == ["b"]


def test_a_sandbox_is_removed_from_the_records_before_anything_else():
    house = House()
    box = house.create(name="box")
    house.effects.clear()
    house.ask("DELETE", f"{BOXES}/box")
    assert house.kinds() == ["Save", "Demolish"]
    assert house.saved() == [Record("box", box["id"], None)]


# --- the data plane (13 numbers 52 to 55) ---------------------------------------------


def opened(house, name="box"):
    return house.run(house.host.open_box(name, now=house.now))


@pytest.mark.parametrize("status", ["ready", "stopped"])
def test_a_sandbox_is_opened_ready_and_woken_if_need_be(status):
    house = House()
    house.create(name="box")
    house.host.find_box("box").status = status
    house.effects.clear()
    assert opened(house).status == "ready"
    assert ("BuildSandbox" in house.kinds()) == (status == "stopped")


@pytest.mark.parametrize(
    ("status", "code", "type_", "headers"),
    [
        ("failed", 409, "SandboxFailed", {}),
        ("provisioning", 503, "ServiceUnavailable", {"retry-after": "1"}),
    ],
)
def test_a_sandbox_that_cannot_be_opened_says_why(status, code, type_, headers):
    house = House()
    house.create(name="box")
    house.on_boot = None
    house.host.find_box("box").status = status
    error = refusal_of(lambda: opened(house))
    assert (error.status, error.type, error.headers) == (code, type_, headers)
    assert house.now <= 10.0


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_sandbox_that_is_gone_cannot_be_opened(when):
    house = House()
    house.create(name="box")
    house.host.find_box("box").status = "stopped"
    house.on_boot = lambda box_id: house.ask("DELETE", f"{BOXES}/{box_id}")
    if when == "before":
        house.ask("DELETE", f"{BOXES}/box")
    assert refusal_of(lambda: opened(house)).status == 404


# --- records --------------------------------------------------------------------------


def test_records_survive_a_restart_as_stopped_sandboxes():
    house = House()
    box = house.create(name="box", labels={"a": "b"}, env_vars={"S": "x"})
    documents = [record.document for record in house.saved()][-1:]
    again = House(documents=json.loads(json.dumps(documents)))
    again.run(again.host.recover((), now=again.now))
    answer = again.ask("GET", f"{BOXES}/box").payload
    assert answer["stopped_at"] >= box["created_at"]
    assert answer == {**box, "status": "stopped", "stopped_at": answer["stopped_at"]}
    assert again.host.find_box("box").env_vars == {"S": "x"}


def test_a_record_of_a_newer_version_can_be_read():
    document = {"id": "i", "name": "n", "created_at": "t", "updated_at": "t", "new": 1}
    assert Box.from_document(document).name == "n"

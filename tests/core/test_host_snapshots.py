"""Snapshots of the pure host (protocol/02 sections 9 and 12, 13 section 2)."""

from __future__ import annotations

import pytest

from sandbox_proto.host.effects import (
    AwaitChange,
    Capture,
    DropLayers,
    FetchedImage,
    FetchImage,
    Flatten,
    HostDone,
)
from sandbox_proto.host.lifecycle import SETTLE_PATIENCE
from sandbox_proto.host.snapshots import SYSTEM_ID, tag_of_image

from ._host import BOXES, House

SNAPSHOTS = "/v2/sandboxes/snapshots"
BY_NAME = "/v2/sandboxes/snapshots-by-name"
IMAGE = FetchedImage("sha256:d", ("top", "bottom"), {"work_dir": "/srv", "env_vars": {"A": "b"}}, 9)


def build(house: House, name: str = "img", image: str = "python:3.12", **more: object):
    house.answers[FetchImage] = HostDone(house.now, None, IMAGE)
    body = {"name": name, "docker_image": image, "fs_capacity_bytes": 10, **more}
    answer = house.ask("POST", SNAPSHOTS, body)
    assert answer.status == 201, answer.payload
    return answer.payload


def get(house: House, reference: str):
    return house.ask("GET", f"{SNAPSHOTS}/{reference}")


def test_the_systems_own_snapshot_is_there_and_cannot_be_touched():
    house = House()
    system = get(house, "system%2Fdefault:latest").payload
    assert (system["id"], system["status"], system["tags"]) == (SYSTEM_ID, "ready", ["latest"])
    assert get(house, "system%2Fdefault").payload == system
    assert house.ask("DELETE", f"{SNAPSHOTS}/{SYSTEM_ID}").status == 403
    body = {"name": "system/x", "docker_image": "x", "fs_capacity_bytes": 1}
    assert house.ask("POST", SNAPSHOTS, body).status == 403


def test_a_build_is_announced_after_a_moment_and_tagged_when_ready():
    house, later = House(), []
    house.on_launch = later.append
    made = build(house, run_config={"env_vars": {"A": "c"}})
    assert (made["status"], made["tags"]) == ("building", [])
    assert house.now == SETTLE_PATIENCE
    house.run(later.pop())
    ready = get(house, made["id"]).payload
    assert (ready["status"], ready["tags"]) == ("ready", ["3.12"])
    assert ready["run_config"] == {"work_dir": "/srv", "env_vars": {"A": "c"}}
    assert (ready["image_digest"], ready["fs_used_bytes"]) == ("sha256:d", 9)
    assert not {"layers", "system", "pending_tag"} & set(ready)


def test_a_quick_build_is_announced_when_it_is_done():
    assert build(House())["status"] == "ready"


@pytest.mark.parametrize(
    ("reference", "tag"),
    [
        ("python:3.12", "3.12"),
        ("python", "latest"),
        ("host:5000/python", "latest"),
        ("host:5000/python:3", "3"),
        ("python@sha256:abc", "latest"),
        ("oci:/dir:v1", "v1"),
    ],
)
def test_the_default_tag_is_the_images_own(reference, tag):
    assert tag_of_image(reference) == tag


@pytest.mark.parametrize(
    ("failure", "image", "said"),
    [
        ("there is no such image", None, "no such image"),
        (None, FetchedImage("d", ("l",), {}, 11), "fs_capacity_bytes"),
    ],
)
def test_a_failed_build_says_why_and_moves_no_tag(failure, image, said):
    house = House()
    old = build(house, tag="v")
    house.answers[FetchImage] = HostDone(house.now, failure, image)
    body = {"name": "img", "docker_image": "x", "fs_capacity_bytes": 10, "tag": "v"}
    failed = house.ask("POST", SNAPSHOTS, body).payload
    shown = get(house, failed["id"]).payload
    assert shown["status"] == "failed" and said in shown["status_message"]
    assert get(house, "img:v").payload["id"] == old["id"]


def test_a_tag_moves_and_the_old_snapshot_is_found_by_id_only():
    house = House()
    old, new = build(house, tag="v"), build(house, tag="v")
    assert get(house, "img:v").payload["id"] == new["id"]
    assert get(house, "img%3Av").payload["id"] == new["id"]
    assert get(house, old["id"]).payload["tags"] == []
    tags = house.ask("GET", f"{BY_NAME}/img").payload
    assert tags == {"name": "img", "tags": [{"tag": "v", "snapshot_id": new["id"]}]}


def test_a_bare_name_is_latest_then_the_newest_untagged_then_the_newest():
    house = House()
    tagged = build(house, tag="v1")
    assert get(house, "img").payload["id"] == tagged["id"]  # ours: better than a 404
    old, new = build(house, tag="v2"), build(house, tag="v2")
    assert get(house, "img").payload["id"] == old["id"]
    latest = build(house, tag="latest")
    assert get(house, "img").payload["id"] == latest["id"] != new["id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{SNAPSHOTS}/nothing", 404),
        (f"{SNAPSHOTS}/img:nope", 404),
        (f"{SNAPSHOTS}/00000000-0000-4000-8000-00000000abcd", 404),
        (f"{BY_NAME}/nothing", 404),
        (f"{BY_NAME}/img%3Av", 400),
    ],
)
def test_what_is_not_there(path, status):
    house = House()
    build(house)
    assert house.ask("GET", path).status == status


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Upper"},
        {"name": "a//b"},
        {"name": "a" * 256},
        {"name": "a:b"},
        {"name": None},
        {"docker_image": ""},
        {"docker_image": 5},
        {"fs_capacity_bytes": None},
        {"fs_capacity_bytes": 0},
        {"tag": "-x"},
        {"tag": "a b"},
        {"description": "x" * 1025},
        {"labels": {"a": 1}},
        {"run_config": {"work_dir": "relative"}},
    ],
)
def test_what_cannot_be_built_is_refused_and_leaves_nothing(change):
    house = House()
    body = {"name": "img", "docker_image": "x", "fs_capacity_bytes": 1, **change}
    assert house.ask("POST", SNAPSHOTS, body).status == 422
    assert house.effects == []


def test_a_sandbox_made_from_a_snapshot_stands_on_it():
    house = House()
    build(house, labels={"a": "1", "b": "2"})
    box = house.create(name="box", snapshot="img", labels={"b": "3"}, run_config={"user": "0"})
    assert box["labels"] == {"a": "1", "b": "3"}
    assert box["run_config"] == {"work_dir": "/srv", "user": "0", "env_vars": {"A": "b"}}
    record = house.host.find_box("box")
    assert (record.layers, record.system) == (["top", "bottom"], "layers")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"snapshot": "img", "snapshot_name": "img"}, 201),
        ({"snapshot": "img", "snapshot_name": "other"}, 400),
        ({"snapshot_id": SYSTEM_ID, "snapshot": "img"}, 400),
        ({"snapshot": "nope"}, 400),
        ({"snapshot": 5}, 400),
    ],
)
def test_what_a_sandbox_boots_from_is_unambiguous(fields, status):
    house = House()
    build(house)
    assert house.ask("POST", BOXES, fields).status == status


def test_a_snapshot_that_is_not_ready_boots_nothing():
    house = House()
    house.answers[FetchImage] = HostDone(0.0, "no")
    body = {"name": "bad", "docker_image": "x", "fs_capacity_bytes": 1}
    made = house.ask("POST", SNAPSHOTS, body).payload
    answer = house.ask("POST", BOXES, {"snapshot_id": made["id"]})
    assert answer.status == 400 and "failed" in answer.payload["detail"]["message"]


# --- captures -------------------------------------------------------------------------


def capture(house: House, box: str = "box", **body: object):
    house.answers[Capture] = HostDone(house.now, None, 77)
    return house.ask("POST", f"{BOXES}/{box}/snapshot", {"name": "cap", **body})


@pytest.mark.parametrize("state", ["ready", "stopped"])
def test_a_capture_puts_one_layer_on_those_of_the_sandbox(state):
    house = House()
    build(house)
    box = house.create(name="box", snapshot="img")
    if state == "stopped":
        house.ask("POST", f"{BOXES}/box/stop")
    answer = capture(house)
    assert (answer.status, answer.payload["status"]) == (201, "ready")
    made = get(house, "cap").payload
    assert (made["status"], made["tags"], made["fs_used_bytes"]) == ("ready", ["latest"], 77)
    assert made["source_sandbox_id"] == box["id"]
    layer = f"capture-{made['id']}"
    assert Capture(box["id"], layer, state == "stopped") in house.effects
    snapshot = house.host.snapshots[made["id"]]
    assert (snapshot.layers, snapshot.system) == ([layer, "top", "bottom"], "layers")
    own = house.host.find_box("box").layers
    assert own == (snapshot.layers if state == "stopped" else ["top", "bottom"])


def test_the_move_of_a_stopped_sandboxs_files_is_written_down_before_it_happens():
    house = House()
    house.create(name="box")
    house.ask("POST", f"{BOXES}/box/stop")
    house.effects.clear()
    capture(house)
    kinds = house.kinds()
    before = house.effects[: kinds.index("Capture") + 2]
    pending = [
        record.document["pending_layer"]
        for effect in before
        for record in getattr(effect, "records", ())
        if record.kind == "box"
    ]
    assert pending and pending[-1] is not None


def test_a_sandbox_that_was_never_written_to_is_captured_without_a_layer():
    house = House()
    box = house.create(name="box")
    house.host.find_box("box").layers = ["base"]
    house.ask("POST", f"{BOXES}/box/stop")
    made = house.ask("POST", f"{BOXES}/box/snapshot", {"name": "cap"}).payload
    assert (made["status"], made["fs_used_bytes"]) == ("ready", 0)
    assert house.host.snapshots[made["id"]].layers == house.host.boxes[box["id"]].layers == ["base"]


class Slow:
    """Captures of one stopped sandbox, each as far as the test lets it get."""

    def __init__(self) -> None:
        self.house = House()
        self.box = self.house.host.boxes[self.house.create(name="box", idle_ttl_seconds=0)["id"]]
        self.box.layers = ["base"]
        self.house.ask("POST", f"{BOXES}/box/stop")
        self.house.effects.clear()

    def begin(self, name):
        """The flow of a capture up to its first effect, and its snapshot."""
        flows = []
        self.house.on_launch = flows.append
        made = self.house.ask("POST", f"{BOXES}/box/snapshot", {"name": name}).payload
        self.house.on_launch = self.house.run
        [flow] = flows
        return flow, self.house.host.snapshots[made["id"]]


def step(flow, wanted, outcome=None):
    """Carry a flow on to its next effect of this kind; returns it, or None at the end."""
    try:
        effect = next(flow) if outcome is None else flow.send(outcome)
        while not isinstance(effect, wanted):
            effect = flow.send(HostDone(0.0))
    except StopIteration:
        return None
    return effect


def test_two_captures_of_a_stopped_sandbox_move_its_files_one_after_the_other():
    slow = Slow()
    (first, one), (second, two) = slow.begin("one"), slow.begin("two")
    capture_of_one = step(first, Capture)
    assert slow.box.pending_layer == capture_of_one.layer
    assert isinstance(step(second, (AwaitChange, Capture)), AwaitChange)
    assert slow.box.pending_layer == capture_of_one.layer, "else a crash here would lose the files"
    assert step(first, Capture, HostDone(0.0, None, 5)) is None
    capture_of_two = step(second, Capture, HostDone(0.0))
    assert slow.box.pending_layer == capture_of_two.layer
    assert step(second, Capture, HostDone(0.0, None, None)) is None  # it had nothing new
    assert one.layers == two.layers == slow.box.layers == [capture_of_one.layer, "base"]
    assert {one.status, two.status} == {"ready"}


def test_a_capture_of_what_was_deleted_meanwhile_fails_and_holds_its_layers_until_then():
    slow = Slow()
    flow, snapshot = slow.begin("one")
    step(flow, Capture)
    house = slow.house
    assert house.ask("DELETE", f"{BOXES}/box").status == 204
    assert "DropLayers" not in house.kinds(), "the capture may still need them"
    assert step(flow, DropLayers, HostDone(0.0)) == DropLayers(("base",))
    assert (snapshot.status, snapshot.layers) == ("failed", [])
    assert snapshot.status_message == "the sandbox was deleted meanwhile"
    boxes = [record for record in house.saved() if record.kind == "box"]
    assert boxes[-1].document is None, "it came back"


def test_a_capture_that_fails_says_why_and_leaves_the_sandbox_as_it_was():
    house = House()
    house.create(name="box")
    house.answers[Capture] = HostDone(0.0, "no space left")
    made = house.ask("POST", f"{BOXES}/box/snapshot", {"name": "cap"}).payload
    shown = get(house, made["id"]).payload
    assert (shown["status"], shown["status_message"]) == ("failed", "no space left")
    assert house.host.find_box("box").layers == []


@pytest.mark.parametrize(
    "body",
    [
        {"docker_image": "x"},
        {"include_memory": True},
        {"checkpoint": "c"},
        {"tag": "-"},
        {"image_config": {"cmd": ["x"]}},
        {"include": ["everything"]},
        {"include": "all"},
    ],
)
def test_captures_that_this_host_cannot_make(body):
    house = House()
    house.create(name="box")
    assert capture(house, **body).status == 422


def test_a_fleeting_sandbox_cannot_be_captured():
    house = House()
    house.create(name="box", persistent=False)
    assert capture(house).status == 422
    assert capture(house, "nobody").status == 404


def test_deep_stacks_are_flattened():
    house = House()
    house.create(name="box")
    deep = [f"layer-{n}" for n in range(64)]
    house.host.find_box("box").layers = list(deep)
    house.answers[Flatten] = HostDone(0.0)
    made = capture(house).payload
    snapshot = house.host.snapshots[made["id"]]
    assert snapshot.layers == [f"merged-{made['id']}"]
    flatten = next(effect for effect in house.effects if isinstance(effect, Flatten))
    assert flatten.layers == (f"capture-{made['id']}", *deep)
    assert DropLayers((f"capture-{made['id']}",)) in house.effects


# --- lists and deletion ---------------------------------------------------------------


def test_lists_are_newest_first_and_filtered():
    house = House()
    for name in ("one", "two", "three"):
        build(house, name=name, labels={"n": name})
    listed = house.ask("GET", SNAPSHOTS).payload
    assert [item["name"] for item in listed["items"]] == ["three", "two", "one", "system/default"]
    assert listed["snapshots"] == listed["items"]
    some = house.ask("GET", SNAPSHOTS, query="name_contains=T&limit=1&offset=1").payload
    assert ([item["name"] for item in some["items"]], some["offset"]) == (["two"], 2)
    labelled = house.ask("GET", SNAPSHOTS, query="label=n%3Done&label=n").payload
    assert [item["name"] for item in labelled["items"]] == ["one"]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "offset=-1", "sort_by=x"])
def test_lists_refuse_what_is_out_of_range(query):
    assert House().ask("GET", SNAPSHOTS, query=query).status == 400


def test_a_deleted_snapshot_takes_its_tags_along_but_not_the_files_of_its_sandboxes():
    house = House()
    made = build(house)
    house.create(name="box", snapshot="img")
    assert house.ask("DELETE", f"{SNAPSHOTS}/img%3A3.12").status == 204
    assert get(house, made["id"]).status == 404
    assert house.ask("GET", f"{BY_NAME}/img").status == 404
    assert "DropLayers" not in house.kinds()
    house.ask("DELETE", f"{BOXES}/box")
    assert house.effects[-1] == DropLayers(("top", "bottom"))


def test_a_snapshot_deleted_while_it_is_made_stays_deleted():
    house = House()
    house.create(name="box")
    deleted = []

    class Deleting(dict):
        def get(self, kind, default=None):
            if kind is Capture:
                [made] = [one for one in house.host.snapshots.values() if one.name == "cap"]
                deleted.append(made.id)
                house.ask("DELETE", f"{SNAPSHOTS}/{made.id}")
                return HostDone(0.0, None, 1)
            return super().get(kind, default)

    house.answers = Deleting()
    house.ask("POST", f"{BOXES}/box/snapshot", {"name": "cap"})
    assert get(house, deleted[0]).status == 404
    assert house.effects[-1] == DropLayers((f"capture-{deleted[0]}",))


# --- settings that are carried along --------------------------------------------------

SETTINGS = {
    "env_vars": {"A": "b"},
    "vcpus": 2,
    "idle_ttl_seconds": 120,
    "delete_after_stop_seconds": 180,
    "labels": {"team": "x", "com.langchain.y": "z"},
}


def settled(house: House, include: list[str], **body: object):
    house.create(name="box", **SETTINGS)
    confirm = {"confirm_allow_snapshot_secret_values": True}
    return capture(house, include=include, **{**confirm, **body}).payload


def test_all_settings_can_be_carried_along_and_lie_under_those_of_a_create():
    house = House()
    made = settled(house, ["all"], labels={"own": "1"})
    assert "env_vars" in made["included"] and "settings" not in made
    assert made["labels"] == {"team": "x", "own": "1"}
    box = house.create(snapshot="cap", labels={"own": "2"}, idle_ttl_seconds=60)
    assert (box["vcpus"], box["mem_bytes"]) == (2, 8 * 1024**3)
    assert (box["idle_ttl_seconds"], box["delete_after_stop_seconds"]) == (60, 180)
    assert box["labels"] == {"team": "x", "own": "2"}
    assert house.host.boxes[box["id"]].env_vars == {"A": "b"}
    assert house.create(snapshot="cap", mem_bytes=1024**3)["vcpus"] == 0.25


@pytest.mark.parametrize("include", [[], ["labels"], ["resources"], ["lifecycle"], ["mounts"]])
def test_only_what_was_asked_for_is_carried_along(include):
    house = House()
    made = settled(house, include)
    assert made["included"] == include
    box = house.create(snapshot="cap")
    assert ("team" in box["labels"]) == (include == ["labels"])
    assert (box["vcpus"] == 2) == (include == ["resources"])
    assert (box["idle_ttl_seconds"] == 120) == (include == ["lifecycle"])
    assert house.host.boxes[box["id"]].env_vars == {}


def test_values_of_variables_are_carried_along_only_when_that_is_confirmed():
    house = House()
    house.create(name="box", **SETTINGS)
    refused = capture(house, include=["env_vars"])
    assert refused.status == 422
    assert "confirm_allow_snapshot_secret_values" in str(refused.payload)
    house.create(name="bare")
    assert capture(house, "bare", include=["env_vars"]).status == 201

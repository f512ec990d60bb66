"""The vendor's JavaScript client, unchanged, tells its story against our host under node.

The story is `story.mjs`; it prints what it saw, and the tests here look at that.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox_anyio.local.launch import LocalHost

from ._javascript import Seen, tell

STORY = Path(__file__).with_name("story.mjs")
SERVICE = Path(__file__).parents[1] / "drivers" / "_echo_service.py"
GIB = 1 << 30


@pytest.fixture(scope="module")
def seen(host: LocalHost, packages: Path) -> Seen:
    """What the story saw, by step."""
    return tell(STORY, packages, host, str(SERVICE))


def test_a_sandbox_is_what_was_asked_for_wherever_one_looks(seen: Seen) -> None:
    made = seen["made"]["made"]
    asked = {
        "name": "js-story",
        "status": "ready",
        "labels": {"team": "red"},
        "idle_ttl_seconds": 120,
        "delete_after_stop_seconds": 0,
        "vCpus": 2,
        "mem_bytes": 5 * GIB,
        "fs_capacity_bytes": 3 * GIB,
        "run_config": {"work_dir": "/tmp", "env_vars": {"A": "made"}},
        "access_delegation": {"mode": "INHERIT"},
    }
    assert {name: made[name] for name in asked} == asked
    assert seen["made"]["got"] == seen["made"]["listed"] == made
    assert seen["made"]["status"] == {"status": "ready", "status_message": None}


def test_commands_run_stream_and_take_input(seen: Seen) -> None:
    ran = seen["ran"]
    assert ran["plain"] == {"stdout": "/tmp made\n", "stderr": "err\n", "exit_code": 3}
    assert ran["env"] == {"stdout": "/usr b\n", "stderr": "", "exit_code": 0}
    assert ran["called"] == {"stdout": "out\n", "stderr": "err\n"}
    assert ran["withCallbacks"] == {**ran["called"], "exit_code": 0}
    assert ran["chunks"] == [{"stream": "stdout", "data": "typed\n", "offset": 0}]
    assert ran["typed"] == ran["again"] == {"stdout": "typed\n", "stderr": "", "exit_code": 0}
    assert ran["killed"] == {"stdout": "begun\n", "stderr": "", "exit_code": 137}


def test_files_come_back_as_they_went(seen: Seen) -> None:
    assert len(seen["files"]["files"]) == 4
    assert all(seen["files"]["files"].values()), seen["files"]["files"]
    assert seen["files"]["text"] == "grüße"


def test_a_sandbox_changes_stops_starts_and_is_waited_for(seen: Seen) -> None:
    life = seen["lifecycle"]
    assert life["changed"]["id"] == seen["made"]["made"]["id"]
    assert (life["changed"]["name"], life["changed"]["idle_ttl_seconds"]) == ("js-story-new", 600)
    assert life["echoed"]["stdout"] == "made yes\n"
    assert life["stopped"]["status"] == "stopped"
    assert (life["changed"]["status"], life["kept"]) == ("ready", "grüße")
    assert life["ready"] == {**life["early"], "status": "ready"}


def test_captures_become_sandboxes_by_every_reference(seen: Seen) -> None:
    snapshots = seen["snapshots"]
    running, at_rest = snapshots["running"], snapshots["atRest"]
    for snapshot, source in (
        (running, seen["made"]["made"]),
        (at_rest, seen["lifecycle"]["ready"]),
    ):
        assert (snapshot["status"], snapshot["tags"]) == ("ready", ["latest"])
        assert snapshot["source_sandbox_id"] == source["id"]
        assert snapshot["fs_capacity_bytes"] == source["fs_capacity_bytes"]
    copy = {"snapshot": running["id"], "content": "captured", "from": "js\n"}
    assert snapshots["copies"] == [copy] * 3
    assert {*snapshots["references"].values()} == {running["id"]}
    assert snapshots["all"] == [at_rest["id"], running["id"]]
    assert snapshots["first"] + snapshots["second"] == snapshots["all"]
    assert snapshots["failed"]["error"] == "LangSmithResourceCreationError"
    assert snapshots["failed"]["resourceType"] == "snapshot"
    assert "oci:/no-such-image" in snapshots["failed"]["message"]
    assert seen["forgotten"]["left"] == []


def test_a_service_is_reached_with_its_token_only(seen: Seen) -> None:
    service = seen["service"]
    posted, headers = service["posted"], dict(service["posted"]["headers"])
    assert (posted["method"], posted["target"], posted["body"]) == ("POST", "/a%20b?q=1", "aGk=")
    assert headers["x-own"] == "1"
    assert "x-langsmith-sandbox-service-token" not in headers
    assert service["page"] == {"status": 200, "type": "text/html"}
    assert (service["short"], service["bare"], service["nothing"]) == (200, 401, 502)
    assert "#token=" in service["embed"]["url"]
    assert service["embed"]["origins"] == ["https://site.example"]


def test_a_login_grant_ends_the_time_of_tokens(seen: Seen) -> None:
    login = seen["login"]
    assert (login["isLogin"], login["access"]) == (True, "workspace")
    assert login["url"].startswith(f"http://{seen['made']['made']['id']}--8000.localhost:")
    assert login["tokens"] == 401
    assert login["refused"]["error"] == "LangSmithSandboxError"
    assert "login grant" in login["refused"]["message"]


def test_a_download_link_needs_no_key(seen: Seen) -> None:
    link = seen["link"]
    assert (link["status"], link["same"], link["type"]) == (200, True, "image/png")
    assert link["disposition"].startswith("attachment")
    assert link["expires"] is not None
    assert link["forEver"] is None


def test_registries_are_kept_without_their_password(seen: Seen) -> None:
    registries = seen["registries"]
    assert "secret-word" not in json.dumps(registries)
    moved = registries["moved"]
    assert moved["id"] == registries["registry"]["id"]
    assert (moved["name"], moved["url"]) == ("js-registry-new", "https://other.example")
    assert registries["retrieved"] == moved
    assert registries["listed"] == [moved]
    assert registries["gone"]["error"] == "NotFoundError"


def error(name: str, **attributes: str) -> dict[str, str]:
    return {"error": f"LangSmith{name}", **attributes}


MISTAKES = {
    "get nothing": error("ResourceNotFoundError", resourceType="sandbox"),
    "delete nothing": error("ResourceNotFoundError", resourceType="sandbox"),
    "start nothing": error("ResourceNotFoundError"),
    "no such snapshot": error("ResourceNotFoundError", resourceType="snapshot"),
    "a name that is taken": error("SandboxError"),
    "a new name that is taken": error("ResourceNameConflictError", resourceType="sandbox"),
    "a name that cannot be": error("ValidationError", field="name"),
    "from no snapshot": error("SandboxError"),
    "no time to get ready": error("ResourceTimeoutError", resourceType="sandbox"),
    "wait for a stopped one": error(
        "ResourceTimeoutError", resourceType="sandbox", lastStatus="stopped"
    ),
    "the system's names": error("SandboxAuthenticationError"),
    "a limit out of range": error("SandboxError"),
    "read nothing": error("ResourceNotFoundError", resourceType="file"),
    "read a directory": error("SandboxOperationError", operation="read", errorType="ReadError"),
    "write a directory": error("SandboxOperationError", operation="write", errorType="WriteError"),
    "no such shell": error("SandboxOperationError", operation="command", errorType="CommandError"),
    "a wrong key": error("SandboxAuthenticationError"),
    "a wrong address": error("SandboxAPIError"),
    "a command for what is gone": error("SandboxConnectionError"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_has_the_vendors_name(seen: Seen, what: str) -> None:
    told = dict(seen[what])
    assert told.pop("message")
    assert told == MISTAKES[what]


def test_nothing_is_left(seen: Seen) -> None:
    assert seen["end"]["left"] == []

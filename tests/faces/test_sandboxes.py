"""Sandboxes, snapshots, registries: the control plane, over every face."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox_anyio import (
    ResourceNotFoundError,
    SandboxAuthenticationError,
    SandboxClientError,
    SandboxConnectionError,
    ValidationError,
)

from .conftest import Face


def test_create_get_list_update_delete(client: Any) -> None:
    created = client.create_sandbox(labels={"made": "here"})
    name = created.name
    assert (created.status, created.labels) == ("ready", {"made": "here"})
    assert client.get_sandbox(name) == created
    assert client.get_sandbox_status(name).status == "ready"
    assert client.wait_for_sandbox(name).id == created.id
    assert created.id in [each.id for each in client.list_sandboxes()]
    assert [each.id for each in client.iter_sandboxes(name_contains=name)] == [created.id]
    updated = client.update_sandbox(name, new_name=f"{name}-b", idle_ttl_seconds=1200)
    assert (updated.id, updated.idle_ttl_seconds) == (created.id, 1200)
    client.delete_sandbox(updated.name)
    with pytest.raises(ResourceNotFoundError) as missing:
        client.get_sandbox(name)
    assert missing.value.resource_type == "sandbox"


def test_a_block_deletes_what_it_made_and_nothing_else(client: Any) -> None:
    with client.sandbox() as made:
        with client.get_sandbox(made.name):
            pass
        assert made.run("true").success
    with pytest.raises(ResourceNotFoundError):
        client.get_sandbox(made.name)


def test_the_body_of_a_block_may_delete_and_may_fail(client: Any) -> None:
    with pytest.raises(ZeroDivisionError), client.sandbox() as made:
        made.delete()
        raise ZeroDivisionError


def test_stop_and_start_change_the_object_too(client: Any) -> None:
    with client.sandbox(persistent=True) as made:
        made.write("kept", "text")
        made.stop()
        assert made.status == client.get_sandbox_status(made.name).status == "stopped"
        made.start()
        assert made.status == "ready" and made.read("kept") == b"text"


def test_a_snapshot_from_capture_to_deletion(client: Any, face: Face) -> None:
    name = f"faces/{face.name}"
    with client.sandbox() as source:
        source.write("marker", face.name)
        snapshot = source.capture_snapshot(name)
    assert (snapshot.name, snapshot.status) == (name, "ready")
    assert client.get_snapshot(f"{name}:latest").id == snapshot.id
    assert [each.id for each in client.list_snapshots(name_contains=name)] == [snapshot.id]
    assert [each.id for each in client.iter_snapshots(name_contains=name)] == [snapshot.id]
    assert [each.tag for each in client.list_snapshot_tags(name)] == ["latest"]
    assert client.wait_for_snapshot(snapshot.id).status == "ready"
    with client.sandbox(snapshot_name=name) as copy:
        assert copy.read("marker") == face.name.encode()
    client.delete_snapshot(snapshot.id)
    with pytest.raises(ResourceNotFoundError):
        client.get_snapshot(snapshot.id)


def test_registries(client: Any, face: Face) -> None:
    registries = client.registries
    made = registries.create(
        name=f"r-{face.name}", url="https://registry.example", username="u", password="p"
    )
    assert registries.retrieve(made.name).url == "https://registry.example"
    assert registries.update(made.name, url="https://other.example").id == made.id
    assert made.id in [each.id for each in registries.list().items]
    registries.delete(made.name)
    with pytest.raises(ResourceNotFoundError):
        registries.retrieve(made.name)


def test_errors_say_what_was_wrong(client: Any, sandbox: Any) -> None:
    with pytest.raises(SandboxClientError) as conflict:
        client.create_sandbox(name=sandbox.name)
    assert conflict.value.status == 409
    with pytest.raises(ValidationError) as invalid:
        client.create_sandbox(name="Not A Name")
    assert invalid.value.field == "name"
    with pytest.raises(ValueError, match="name"):
        client.get_sandbox("..")


def test_a_wrong_key_is_refused(face: Face, where: dict[str, Any]) -> None:
    with (
        face.open_client(**{**where, "api_key": "wrong"}) as stranger,
        pytest.raises(SandboxAuthenticationError) as refused,
    ):
        stranger.list_sandboxes()
    assert refused.value.status == 401


def test_a_host_that_is_not_there(face: Face) -> None:
    settings = {"api_endpoint": "http://127.0.0.1:9", "trust_env": False, "max_retries": 0}
    with (
        face.open_client(api_key="k", **settings) as lost,
        pytest.raises(SandboxConnectionError, match="refused"),
    ):
        lost.list_sandboxes()


def test_a_wrong_setting_is_told_at_once(face: Face) -> None:
    with pytest.raises(ValueError, match="timeout"), face.open_client(api_key="k", timeout=-1):
        pass

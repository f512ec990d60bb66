"""Snapshots of images, through the client: from files of this machine, and from a registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox_anyio import AsyncSandboxClient, ResourceCreationError

from ..host._images import archive, make_image, small_system, text_file, write_layout
from ..host._images_registry import FakeRegistry

pytestmark = pytest.mark.anyio
GIB = 1 << 30
CONFIG = {"Env": ["GREETING=hello"], "WorkingDir": "/srv"}


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry().running() as registry:
        yield registry


async def test_an_image_becomes_a_sandbox_with_its_files_and_its_settings(
    client: AsyncSandboxClient, tmp_path: Path, anyio_backend: str
) -> None:
    image = make_image(
        small_system(), archive("srv/", text_file("srv/note", "from the image")), config=CONFIG
    )
    write_layout(tmp_path / "layout", {"v1": image})
    name = f"images/{anyio_backend}"
    snapshot = await client.create_snapshot(name, f"oci:{tmp_path}/layout:v1", GIB)
    assert (snapshot.status, snapshot.tags) == ("ready", ["v1"])
    assert snapshot.image_digest == image.digest
    assert snapshot.fs_used_bytes is not None and snapshot.fs_used_bytes > 0
    async with client.sandbox(snapshot=name) as sandbox:
        result = await sandbox.run(
            "echo $GREETING; cat note; /bin/ls /usr 2>/dev/null | cat", shell="/bin/sh"
        )
        assert result.stdout == "hello\nfrom the image", "and nothing of this machine"
        await sandbox.write("/srv/note", b"changed")
        await sandbox.capture_snapshot(f"{name}/changed")
    async with client.sandbox(snapshot=f"{name}/changed") as sandbox:
        assert await sandbox.read("/srv/note") == b"changed"
        assert (await sandbox.run("echo $GREETING", shell="/bin/sh")).stdout == "hello\n"
    await client.delete_snapshot(snapshot.id)
    async with client.sandbox(snapshot=f"{name}/changed") as sandbox:
        assert (await sandbox.run("cat note", shell="/bin/sh")).stdout == "changed"
    await client.delete_snapshot((await client.get_snapshot(f"{name}/changed")).id)


@pytest.mark.parametrize("kind", ["tar", "dir"])
async def test_a_root_file_system_becomes_a_sandbox(
    client: AsyncSandboxClient, tmp_path: Path, kind: str
) -> None:
    if kind == "tar":
        (tmp_path / "root").write_bytes(small_system())
    else:
        (tmp_path / "root/srv").mkdir(parents=True)
    snapshot = await client.create_snapshot(f"images/{kind}", f"{kind}:{tmp_path}/root", GIB)
    if kind == "tar":
        async with client.sandbox(snapshot_id=snapshot.id) as sandbox:
            assert (await sandbox.run("cat /etc/passwd", shell="/bin/sh")).stdout.startswith(
                "root:"
            )
    await client.delete_snapshot(snapshot.id)


async def test_a_private_registry_is_shown_what_it_wants_to_see(
    client: AsyncSandboxClient, registry: FakeRegistry, anyio_backend: str
) -> None:
    registry.basic, registry.users = True, {"me": "secret"}
    reference = registry.serve("team/small", "v2", make_image(small_system()))
    name = f"private/{anyio_backend}"
    with pytest.raises(ResourceCreationError, match="team/small"):
        await client.create_snapshot(name, reference, GIB)
    [failed] = await client.list_snapshots(name_contains=name)
    await client.delete_snapshot(failed.id)
    known = await client.registries.create(
        name=f"registry-{anyio_backend}", url=registry.url, username="me", password="secret"
    )
    snapshot = await client.create_snapshot(name, reference, GIB, registry_id=known.id)
    assert snapshot.tags == ["v2"]
    async with client.sandbox(snapshot=f"{name}:v2") as sandbox:
        assert (await sandbox.run("echo in", shell="/bin/sh")).stdout == "in\n"
    await client.delete_snapshot(snapshot.id)
    await client.registries.delete(known.name)

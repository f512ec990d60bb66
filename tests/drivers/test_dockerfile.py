"""Snapshots from Dockerfiles: what is packed, what is run, and what remains when it fails.

No builder exists on the machines these tests run on, so programs of its names stand in and
write down what they were told.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox_anyio import AsyncSandbox, AsyncSandboxClient, ResourceCreationError
from sandbox_anyio.dockerfile import pack_context
from sandbox_proto.wire.image_build import ImageBuild

pytestmark = pytest.mark.anyio

FAKES = {
    "buildkitd": 'echo "$@" >/home/user/buildkitd; trap "echo ended >/home/user/end; exit" TERM;'
    " echo ready >/home/user/up; while true; do sleep 0.05; done",
    "buildctl": 'test -e /home/user/up || exit 1; [ "$1" = debug ] && exit 0;'
    ' [ "$BUILD" = broken ] && { echo "step 3: no such file" >&2; exit 17; };'
    ' printf "%s\\n" "$@" >/home/user/buildctl; echo log >&2; echo image',
    "docker": '[ "$1" = info ] && exit 0; cat >/home/user/loaded',
}

PATH = {"PATH": "/home/user/bin:/usr/bin:/bin"}


@pytest.fixture
async def builder(client: AsyncSandboxClient) -> AsyncIterator[AsyncSandbox]:
    async with client.sandbox() as sandbox:
        for name, script in FAKES.items():
            await sandbox.write(f"bin/{name}", f"#!/bin/bash\n{script}\n")
        await sandbox.run("chmod +x bin/*")
        yield sandbox


def a_context(directory: Path) -> Path:
    (directory / ".git").mkdir()
    (directory / ".git" / "config").write_text("secret")
    (directory / "sub").mkdir()
    (directory / "sub" / "Dockerfile").write_text("FROM scratch")
    (directory / "run.sh").write_text("#!/bin/sh")
    (directory / "run.sh").chmod(0o755)
    (directory / "link").symlink_to("run.sh")
    return directory


def test_the_context_is_packed_as_it_is_without_its_history(tmp_path: Path) -> None:
    context = a_context(tmp_path)
    packed, relative = pack_context(context, context / "sub" / "Dockerfile")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["link", "run.sh", "sub", "sub/Dockerfile"]
        assert archive.getmember("run.sh").mode & 0o777 == 0o755
        assert archive.getmember("link").linkname == "run.sh"
    assert relative == "sub/Dockerfile"


@pytest.mark.parametrize("what", ["context", "dockerfile", "outside"])
async def test_what_cannot_be_built_is_refused_before_anything_is_made(
    client: AsyncSandboxClient, tmp_path: Path, what: str
) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "outside").write_text("FROM scratch")
    context = tmp_path / ("nowhere" if what == "context" else "context")
    dockerfile = tmp_path / ("outside" if what == "outside" else "context/Dockerfile")
    before = {box.id for box in await client.list_sandboxes()}
    with pytest.raises(ValueError, match=f"(?i){what}|not inside"):
        await client.create_snapshot_from_dockerfile("built/x", dockerfile, context=context)
    assert {box.id for box in await client.list_sandboxes()} <= before


async def test_the_script_builds_loads_and_stops_its_daemon(builder: AsyncSandbox) -> None:
    build = ImageBuild.new(lambda count: bytes(range(count)))
    arguments = {"A": 'it\'s; $(a) "trap"', "B": ""}
    result = await builder.run(build.build_command("sub/Docker file", arguments, "stage"), env=PATH)
    assert (result.exit_code, result.stderr) == (0, "log\n")
    told = (await builder.read("buildctl")).decode().splitlines()
    assert 'build-arg:A=it\'s; $(a) "trap"' in told
    assert "build-arg:B=" in told
    assert "filename=sub/Docker file" in told
    assert "target=stage" in told
    assert f"type=docker,name={build.image}" in told
    assert await builder.read("loaded") == b"image\n"
    assert await builder.read("end") == b"ended\n"


async def test_a_daemon_that_dies_ends_the_wait(builder: AsyncSandbox) -> None:
    await builder.write("bin/buildkitd", "#!/bin/bash\necho 'cannot start' >&2; exit 1\n")
    build = ImageBuild.new(lambda count: bytes(count))
    result = await builder.run(build.build_command("Dockerfile", {}, None), env=PATH)
    assert result.exit_code == 1
    assert result.stderr == "buildkitd did not become ready\ncannot start\n"


async def test_a_failing_build_ends_with_its_own_code_and_words(builder: AsyncSandbox) -> None:
    build = ImageBuild.new(lambda count: bytes(count))
    result = await builder.run(
        build.build_command("Dockerfile", {}, None), env={**PATH, "BUILD": "broken"}
    )
    assert result.exit_code == 17
    assert "step 3: no such file" in result.stderr
    assert await builder.read("end") == b"ended\n"


async def test_a_failed_build_is_a_creation_error_and_leaves_no_sandbox(
    client: AsyncSandboxClient, tmp_path: Path
) -> None:
    context = a_context(tmp_path)
    log: list[str] = []
    with pytest.raises(ResourceCreationError, match="has no buildkitd") as failed:
        await client.create_snapshot_from_dockerfile(
            "built/none",
            context / "sub" / "Dockerfile",
            context=context,
            on_build_log=log.append,
        )
    assert failed.value.resource_type == "snapshot"
    assert "buildkitd" in "".join(log)
    assert not [box for box in await client.list_sandboxes() if "snapshot-builder" in box.name]

"""Sandboxes whose system is their layers' own, with nothing of this machine's."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from sandbox_anyio.local.runtime import (
    IMAGE_PATH,
    CommandSpec,
    RunningSandbox,
    RuntimeUnavailableError,
    SandboxSpec,
    SpawnError,
)

from ._images import (
    Extractor,
    HeldRuntime,
    archive,
    held_runtime,
    member,
    small_system,
    text_file,
)
from ._runtime import finish, opened, run, spec

NOTHING = "no such file"
HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n"
_numbers = itertools.count()


@attrs.frozen
class Builder:
    """Builds sandboxes of archives in one runtime. `system` is a layer with a shell."""

    held: HeldRuntime
    extract: Extractor
    system: Path

    def layers(self, *members: Any) -> tuple[Path, ...]:
        """A layer of these members, over the system."""
        return (self.extract(archive(*members)), self.system)

    def run(self, work: Callable[..., Awaitable[Any]], *layers: Path) -> Any:
        """Call `work` with a sandbox of these layers, and perhaps its `SandboxSpec`."""

        async def do() -> Any:
            box = spec(self.held.state, f"box-{next(_numbers)}", layers)
            box = attrs.evolve(box, system="layers")
            sandbox = await self.held.runtime.build(box)
            try:
                return await work(sandbox, box)
            finally:
                await sandbox.destroy()

        return self.held.call(do)


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def build(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Builder]:
    with held_runtime(tmp_path_factory.mktemp("state"), request.param) as held:
        extract = Extractor(held, tmp_path_factory.mktemp("archives"))
        yield Builder(held, extract, extract(small_system()))


async def _cat(sandbox: RunningSandbox, file: str) -> str:
    result = await run(sandbox, "cat", file, env={})
    return NOTHING if "No such file" in result.stderr else result.stdout


def test_there_is_nothing_but_the_layers(build: Builder) -> None:
    async def look(sandbox: RunningSandbox, box: SandboxSpec) -> None:
        assert sandbox.search_path == IMAGE_PATH
        names = (await run(sandbox, "ls", "-A", "/", env={})).stdout.split()
        assert {"bin", "dev", "etc", "lib", "proc", "root", "tmp", "top"} <= set(names)
        assert not {"usr", "home", "var", "opt", "sys"} & set(names)
        assert (await run(sandbox, "ls", "/dev", env={})).stdout.split()[:2] == ["core", "fd"]
        assert (await run(sandbox, "sh", "-c", "echo $$ > /tmp/x; cat /tmp/x", env={})).code == 0
        assert "overlay" in await _cat(sandbox, "/proc/self/mounts")
        result = await run(sandbox, "sh", "-c", "echo new > /top && cat /top", env={})
        assert result.stdout == "new\n"
        with pytest.raises(SpawnError, match="no such program"):
            await sandbox.spawn(CommandSpec(("python3",), {}))

    build.run(look, *build.layers("top"))


@pytest.mark.parametrize(
    ("files", "home"),
    [
        (["home/user/"], "/home/user"),
        ([], "/root"),
        ([text_file("etc/passwd", "bin:x:1:1::/bin:\nroot:x:0:0::/srv:\n"), "srv/"], "/srv"),
        ([text_file("etc/passwd", "root:x:0:0:root:/nowhere:/bin/sh\n")], "/"),
        ([text_file("etc/passwd", "toor:x:0\nroot:x:0:0:root:relative:/bin/sh\n")], "/"),
        (["etc/.wh.passwd"], "/"),
    ],
)
def test_home_is_what_the_image_has(build: Builder, files: list[Any], home: str) -> None:
    async def look(sandbox: RunningSandbox, box: SandboxSpec) -> None:
        assert await sandbox.home() == home
        assert (await run(sandbox, "sh", "-c", "pwd", env={})).stdout == f"{home}\n"

    build.run(look, *build.layers(*files))


async def _fail(sandbox: RunningSandbox, box: SandboxSpec) -> None:
    raise AssertionError("it was built")


def test_an_image_without_a_shell_is_refused_in_words(build: Builder) -> None:
    with pytest.raises(RuntimeUnavailableError, match="cannot run /bin/sh, which every"):
        build.run(_fail, build.extract(archive("hello")))
    bad = build.extract(archive((member("bin/sh", mode=0o755), b"\x7fELF of another machine")))
    with pytest.raises(RuntimeUnavailableError, match="was built for"):
        build.run(_fail, bad)


@pytest.mark.anyio
async def test_without_isolation_there_are_no_images(tmp_path: Path) -> None:
    async with opened(tmp_path, "none") as runtime:
        with pytest.raises(RuntimeUnavailableError, match="running images needs isolation"):
            await runtime.build(attrs.evolve(spec(tmp_path), system="layers"))


@pytest.mark.parametrize("name", ["tmp", "proc", "dev"])
def test_links_in_place_of_mount_points_are_refused(build: Builder, name: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=f"/{name} is no directory"):
        build.run(_fail, *build.layers(member(name, b"2", linkname="/etc")))


# --- /etc ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("etc", "hosts", "hostname"),
    [
        ([], HOSTS, "sandbox\n"),
        ([text_file("etc/hosts", ""), text_file("etc/hostname", "builder\n")], HOSTS, "sandbox\n"),
        (
            [text_file("etc/hosts", "127.0.0.1 localhost\n10.0.0.1 db")],
            f"127.0.0.1 localhost\n10.0.0.1 db\n{HOSTS}",
            "sandbox\n",
        ),
        (
            [text_file("etc/hosts", "::1 sandbox localhost\n")],
            "::1 sandbox localhost\n",
            "sandbox\n",
        ),
        (
            [text_file("etc/hosts", "::1 localhost # sandbox\n")],
            f"::1 localhost # sandbox\n{HOSTS}",
            "sandbox\n",
        ),
        ([text_file("etc/hosts", "closed", mode=0)], "closed", "sandbox\n"),
        ([member("etc/hosts", b"2", linkname="/nowhere")], NOTHING, "sandbox\n"),
        ([member("etc", b"2", linkname="/root")], NOTHING, NOTHING),
    ],
)
def test_the_sandbox_knows_its_name(
    build: Builder, etc: list[Any], hosts: str, hostname: str
) -> None:
    async def look(sandbox: RunningSandbox, box: SandboxSpec) -> None:
        assert await _cat(sandbox, "/etc/hosts") == hosts
        assert await _cat(sandbox, "/etc/hostname") == hostname

    layers = build.layers(*etc)
    before = _all_files(layers)
    build.run(look, *layers)
    assert _all_files(layers) == before


def _all_files(layers: Sequence[Path]) -> list[tuple[str, int]]:
    return [(str(path), path.lstat().st_mtime_ns) for layer in layers for path in layer.rglob("*")]


def test_what_was_changed_stays_changed(build: Builder) -> None:
    layer = build.held.state / f"layers/captured-{next(_numbers)}"
    mine = "127.0.0.1 mine sandbox localhost"

    async def change(sandbox: RunningSandbox, box: SandboxSpec) -> SandboxSpec:
        assert stat.S_IMODE((box.upper / "etc").stat().st_mode) == 0o750
        command = f"echo {mine} > /etc/hosts; rm /etc/hostname"
        assert (await run(sandbox, "sh", "-c", command, env={})).code == 0
        await build.held.runtime.layers.capture_running(sandbox, box.upper, layer)
        return box

    async def look_again() -> None:
        sandbox = await build.held.runtime.build(box)
        assert await _cat(sandbox, "/etc/hosts") == f"{mine}\n"
        assert await _cat(sandbox, "/etc/hostname") == NOTHING
        await sandbox.destroy()

    layers = build.layers(member("etc", b"5", mode=0o750), text_file("etc/hosts", ""))
    box = build.run(change, *layers)
    build.held.call(look_again)

    async def look_at_copy(sandbox: RunningSandbox, box: SandboxSpec) -> None:
        assert await _cat(sandbox, "/etc/hosts") == f"{mine}\n"

    build.run(look_at_copy, layer, *layers)


def test_resolv_conf_is_the_images_or_ours(build: Builder) -> None:
    async def look(sandbox: RunningSandbox, box: SandboxSpec) -> str:
        return await _cat(sandbox, "/etc/resolv.conf")

    mine = build.layers(text_file("etc/resolv.conf", "nameserver 9.9.9.9\n"))
    assert build.run(look, *mine) == "nameserver 9.9.9.9\n"
    assert build.run(look, build.system).startswith("# This sandbox has no network")


def test_files_and_commands_start_from_the_same_home(build: Builder) -> None:
    async def look(sandbox: RunningSandbox, box: SandboxSpec) -> None:
        home = await sandbox.home()
        file = await sandbox.create_file(f"{home}/f")
        await file.commit()
        command = await sandbox.spawn(CommandSpec(("ls",), {}))
        assert (await finish(command)).stdout == "f\n"

    build.run(look, build.system)

"""Layers and images where the host itself is an ordinary user."""

from __future__ import annotations

import os

import pytest

from ._images import LOOK, small_system
from ._runtime import NOBODY, directory_of_nobody, run_as_nobody

_STORY = """
import json, os, stat, sys, anyio, attrs
from pathlib import Path
from sandbox_anyio.local.images import FetchSettings, ImageStore, fetch_image
from sandbox_anyio.local.runtime import CommandSpec, SandboxSpec, open_runtime

LOOK = sys.argv[3]
MESS = r'''
import os
os.mkdir('/srv/shut'); open('/srv/shut/in', 'w').write('x'); os.chmod('/srv/shut/in', 0)
os.chmod('/srv/shut', 0)
open('/srv/set', 'w').write('y'); os.chmod('/srv/set', 0o6755); os.link('/srv/set', '/srv/link')
os.mkfifo('/srv/fifo', 0o600); os.unlink('/etc/hosts'); os.rmdir('/var/log'); os.mkdir('/var/log')
os.setxattr('/srv/set', 'user.note', b'1'); os.chmod('/', 0o555)
'''

async def run(sandbox, *argv):
    command = await sandbox.spawn(CommandSpec(argv, {"PATH": "/opt/python/bin:/usr/bin:/bin"}))
    os.close(command.stdin)
    os.set_blocking(command.stdout, True)
    output = b""
    while data := os.read(command.stdout, 65536):
        output += data
    os.set_blocking(command.stderr, True)
    complaint = os.read(command.stderr, 65536).decode()
    assert await command.wait() == 0, complaint
    os.close(command.stdout), os.close(command.stderr)
    return output.decode()

async def main():
    state = Path(sys.argv[2])
    async with open_runtime("auto", state) as runtime:
        layers = runtime.layers
        def spec(name, *below, system="host"):
            place = state / "sandboxes" / name
            return SandboxSpec(name, below, place / "upper", place / "work", system)

        first = await runtime.build(spec("first"))
        await run(first, "python3", "-c", MESS)
        seen = [await run(first, "python3", "-c", LOOK, top) for top in ("/srv", "/etc", "/var")]
        await layers.capture_running(first, spec("first").upper, state / "layers/copy")
        await first.destroy()
        await layers.capture_stopped(spec("first").upper, state / "layers/moved")
        await layers.flatten([state / "layers/copy", state / "layers/moved"], state / "layers/flat")
        for name in ("copy", "moved", "flat"):
            assert (state / "layers" / name).stat().st_uid == os.getuid()
            sandbox = await runtime.build(spec(name, state / "layers" / name))
            for top, before in zip(("/srv", "/etc", "/var"), seen):
                now = await run(sandbox, "python3", "-c", LOOK, top)
                assert json.loads(now) == json.loads(before), (name, top)
            assert await run(sandbox, "stat", "-c", "%a", "/") in ("555\\n", "755\\n")
            await sandbox.destroy()
            await runtime.remove_tree(spec(name).upper.parent)
            assert await layers.usage(state / "layers" / name) > 0
            await layers.remove(state / "layers" / name)

        store = ImageStore(runtime, state / "images")
        image = await fetch_image(f"tar:{sys.argv[4]}", store)
        assert {path.lstat().st_uid for path in image.layers[0].rglob("*")} == {os.getuid()}
        sandbox = await runtime.build(spec("image", *image.layers, system="layers"))
        assert await run(sandbox, "sh", "-c", "cat /etc/hostname; ls /usr 2>&1 || true") != ""
        assert await sandbox.home() == "/root"
        await sandbox.destroy()
        await layers.remove(image.layers[0])
        await store.clean()
        assert os.listdir(state / "layers") == os.listdir(state / "images") == []

anyio.run(main, backend=sys.argv[1])
print("done")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="this user is tested by all the other tests")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_layers_work_for_an_ordinary_user(backend: str) -> None:
    with directory_of_nobody() as place:
        archive = place / "system.tar"
        archive.write_bytes(small_system())
        archive.chmod(0o644)
        state = place / "state"
        state.mkdir()
        os.chown(state, NOBODY, NOBODY)
        result = run_as_nobody(_STORY, backend, str(state), LOOK, str(archive))
        assert result.stdout == "done\n", result.stderr + result.stdout

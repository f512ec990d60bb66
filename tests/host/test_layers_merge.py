"""Merged layers show and hide what their originals did, as overlayfs itself judges it."""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox_anyio.local.runtime import SandboxSpec

from ._images import LOOK, HeldRuntime, held_runtime, small_system, wait_until
from ._runtime import descendants_of, give_to_sandboxes, run

_numbers = itertools.count()


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeldRuntime]:
    with held_runtime(tmp_path_factory.mktemp("state")) as held:
        yield held


def look(held: HeldRuntime, layers: tuple[Path, ...], top: str) -> Any:
    """What a sandbox of these layers sees."""

    async def in_sandbox() -> str:
        place = held.state / f"sandboxes/{next(_numbers)}"
        spec = SandboxSpec("look", layers, place / "upper", place / "work")
        sandbox = await held.runtime.build(spec)
        try:
            result = await run(sandbox, "python3", "-c", LOOK, top)
        finally:
            await sandbox.destroy()
        assert result.code == 0, result.stderr
        return result.stdout

    return json.loads(held.call(in_sandbox))


# --- Random layers -----------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
MODES = st.sampled_from([0o755, 0o700, 0o000, 0o4755, 0o2711, 0o1777, 0o444])
TIMES = st.integers(0, 10**18)

FILES = st.fixed_dictionaries(
    {"kind": st.just("file"), "mode": MODES, "time": TIMES, "text": st.binary(max_size=3)}
)
OTHERS = st.sampled_from(
    [{"kind": "whiteout"}, {"kind": "link"}, {"kind": "fifo"}, {"kind": "hard link"}]
)
TREES = st.recursive(
    FILES | OTHERS | OTHERS,
    lambda inner: st.fixed_dictionaries(
        {
            "kind": st.just("directory"),
            "mode": MODES,
            "time": TIMES,
            "opaque": st.booleans(),
            "inside": st.dictionaries(NAMES, inner, max_size=3),
        }
    ),
    max_leaves=8,
)
LAYERS = st.lists(st.dictionaries(NAMES, TREES, max_size=3), min_size=2, max_size=4)


def write(directory: Path, tree: dict[str, Any], linked: list[Path]) -> None:
    """Write a random tree; the whiteouts that hide nothing come with it, as in bad images."""
    for name, node in tree.items():
        path = directory / name
        match node["kind"]:
            case "file":
                path.write_bytes(node["text"])
                if node["text"] == b"":
                    os.setxattr(path, "user.note", b"empty")
                path.chmod(node["mode"])
                os.utime(path, ns=(node["time"], node["time"]))
                linked.append(path)
            case "link":
                path.symlink_to("somewhere/else")
                os.utime(path, ns=(1, 2), follow_symlinks=False)
            case "hard link" if linked:
                path.hardlink_to(linked[-1])
            case "hard link":
                path.write_text("nothing to link to")
                os.utime(path, ns=(3, 4))
            case "fifo":
                os.mkfifo(path, 0o640)
                os.utime(path, ns=(5, 6))
            case "whiteout":
                os.mknod(path, stat.S_IFCHR)
            case "directory":
                path.mkdir()
                if node["opaque"]:
                    os.setxattr(path, "user.overlay.opaque", b"y")
                    os.setxattr(path, "user.note", b"opaque")
                write(path, node["inside"], linked)
                os.utime(path, ns=(node["time"], node["time"]))
                path.chmod(node["mode"])


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user cannot write such trees")
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(trees=LAYERS, split=st.integers(0, 3))
def test_merged_layers_look_like_their_originals(
    held: HeldRuntime, trees: list[dict[str, Any]], split: int
) -> None:
    """Some of the layers are merged, and the rest stays below the result."""
    place = held.state / f"layers/{next(_numbers)}"
    layers = []
    for number, tree in enumerate(trees):
        layer = place / str(number)
        top = layer / "srv/tree"
        top.mkdir(parents=True)
        write(top, tree, [])
        os.utime(top, ns=(number, number))
        give_to_sandboxes(held.runtime, layer)
        for path in top.rglob("*"):  # a change of owner takes the special bits away
            mode = _node(tree, path.relative_to(top).parts).get("mode")
            if mode is not None:
                path.chmod(mode)
        layers.append(layer)
    merged, below = layers[: split + 1], layers[split + 1 :]
    result = place / "result"
    held.call(held.runtime.layers.flatten, merged, result, below=below)
    before = look(held, tuple(layers), "/srv/tree")
    after = look(held, (result, *below), "/srv/tree")
    assert _without_broken(before) == _without_broken(after)
    assert _broken(after) <= _broken(before)
    if not below:
        assert not _broken(after)
    if split == 0:
        return
    again = place / "again"
    held.call(held.runtime.layers.flatten, [result, *below], again)
    assert _without_broken(look(held, (again,), "/srv/tree")) == _without_broken(before)


def _node(tree: dict[str, Any], parts: tuple[str, ...]) -> dict[str, Any]:
    node: dict[str, Any] = {"inside": tree}
    for part in parts:
        node = node["inside"][part]
    return node


def _without_broken(seen: Any) -> Any:
    found, linked, mode = seen
    return {name: entry for name, entry in found.items() if entry != "broken"}, linked, mode


def _broken(seen: Any) -> set[str]:
    return {name for name, entry in seen[0].items() if entry == "broken"}


# --- Particular cases --------------------------------------------------------------


def make(held: HeldRuntime, *paths: str) -> Path:
    """A layer. A name that ends with ``!`` is a whiteout."""
    layer = held.state / f"layers/{next(_numbers)}"
    layer.mkdir(parents=True)
    for text in paths:
        path = layer / text.rstrip("/!")
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.endswith("!"):
            os.mknod(path, stat.S_IFCHR)
        elif text.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(f"{layer.name}: {text}")
    give_to_sandboxes(held.runtime, layer)
    return layer


def flat(held: HeldRuntime, *layers: Path, **options: Any) -> list[str]:
    """The names in the merged layer."""
    target = held.state / f"layers/{next(_numbers)}"
    held.call(held.runtime.layers.flatten, layers, target, **options)
    return sorted(str(path.relative_to(target)) for path in target.rglob("*"))


needs_mknod = pytest.mark.skipif(
    os.geteuid() != 0, reason="an ordinary user cannot make whiteouts by hand"
)


@needs_mknod
def test_whiteouts_stay_only_where_something_is_below(held: HeldRuntime) -> None:
    top, low = make(held, "srv/x!", "srv/y!", "etc/hosts!"), make(held, "srv/x")
    assert flat(held, top, low) == ["etc", "etc/hosts", "srv"]  # of the runtime's own base
    assert flat(held, top, low, system="layers") == ["etc", "etc/hosts", "srv"]
    below = make(held, "srv/y")
    assert flat(held, top, low, below=[below]) == ["etc", "etc/hosts", "srv", "srv/y"]
    hidden = make(held, "srv/y!")
    assert flat(held, top, low, below=[hidden, below]) == ["etc", "etc/hosts", "srv"]


@needs_mknod
def test_opaqueness_stays_only_where_something_is_below(held: HeldRuntime) -> None:
    top, low = make(held, "srv/d/new"), make(held, "srv/d!")
    for below, opaque in (
        ([make(held, "srv/d/old")], True),
        ([make(held, "srv/d")], False),
        ([], False),
    ):
        target = held.state / f"layers/{next(_numbers)}"
        held.call(held.runtime.layers.flatten, [top, low], target, below=below)
        assert ("user.overlay.opaque" in os.listxattr(target / "srv/d")) is opaque


@needs_mknod
def test_no_whiteouts_stay_where_all_is_hidden_anyway(held: HeldRuntime) -> None:
    top, low, below = make(held, "srv/d/x!"), make(held, "srv/d/x"), make(held, "srv/d/x")
    os.setxattr(low / "srv/d", "user.overlay.opaque", b"y")
    assert flat(held, top, low, below=[below]) == ["srv", "srv/d"]


def test_nothing_to_merge_is_refused(held: HeldRuntime) -> None:
    with pytest.raises(ValueError, match="no layers"):
        held.call(held.runtime.layers.flatten, [], held.state / "layers/never")


def test_a_missing_layer_is_an_error_and_leaves_nothing(held: HeldRuntime) -> None:
    target = held.state / "layers/never"
    with pytest.raises(OSError, match="No such file"):
        held.call(held.runtime.layers.flatten, [held.state / "layers/nowhere"], target)
    assert not list(target.parent.glob("never*"))


def test_a_link_in_place_of_a_layer_is_not_followed(held: HeldRuntime, tmp_path: Path) -> None:
    real = make(held, "file")
    link = held.state / "layers/link"
    link.symlink_to(real)
    for layer in (link, link / "..", tmp_path):
        with pytest.raises((OSError, ValueError)):
            held.call(held.runtime.layers.flatten, [layer], held.state / "layers/never")
        with pytest.raises((OSError, ValueError)):
            held.call(held.runtime.layers.usage, layer)


def test_deep_trees_are_merged(held: HeldRuntime) -> None:
    """Deeper than any path can name, and than there can be open files."""
    layer = make(held, "srv/top/")
    depth = 1300

    async def dig() -> str:
        place = held.state / "sandboxes/deep"
        spec = SandboxSpec("deep", (layer,), place / "upper", place / "work")
        sandbox = await held.runtime.build(spec)
        script = f"import os\nos.chdir('/srv/top')\nfor n in range({depth}):\n"
        script += " os.mkdir('d'); os.chdir('d')\nopen('bottom', 'w').write('x')"
        result = await run(sandbox, "python3", "-c", script)
        assert result.code == 0, result.stderr
        upper = place / "upper"
        await held.runtime.layers.capture_running(sandbox, upper, held.state / "layers/deep")
        await sandbox.destroy()
        await held.runtime.layers.flatten(
            [held.state / "layers/deep", layer], held.state / "layers/deep-flat"
        )
        copy = SandboxSpec(
            "copy", (held.state / "layers/deep-flat",), place / "u2", place / "work2"
        )
        sandbox = await held.runtime.build(copy)
        script = f"import os\nos.chdir('/srv/top')\nfor n in range({depth}): os.chdir('d')\n"
        result = await run(sandbox, "python3", "-c", script + "print(open('bottom').read())")
        await sandbox.destroy()
        await held.runtime.remove_tree(place)
        for name in ("deep", "deep-flat"):
            await held.runtime.layers.remove(held.state / "layers" / name)
        return result.stdout

    assert held.call(dig) == "x\n"


def test_usage_counts_blocks_and_linked_files_once(held: HeldRuntime) -> None:
    layer = make(held, "a/", "sparse")
    (layer / "a/big").write_bytes(os.urandom(1 << 20))
    (layer / "a/again").hardlink_to(layer / "a/big")
    with (layer / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    give_to_sandboxes(held.runtime, layer)
    assert 1 << 20 <= held.call(held.runtime.layers.usage, layer) < (1 << 20) + (1 << 16)


def test_a_socket_is_carried_over(held: HeldRuntime) -> None:
    layer = make(held, "srv/")
    os.mknod(layer / "srv/s", stat.S_IFSOCK)
    give_to_sandboxes(held.runtime, layer)
    assert flat(held, layer) == ["srv", "srv/s"]


def test_a_killed_merge_leaves_nothing(held: HeldRuntime) -> None:
    layer = held.state / "layers/many"
    for number in range(3000):
        path = layer / f"d{number % 10}/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
    give_to_sandboxes(held.runtime, layer)
    old = descendants_of(os.getpid())
    target = held.state / "layers/killed"
    future = held.portal.start_task_soon(held.runtime.layers.flatten, [layer], target)
    wait_until(lambda: len(list(target.parent.glob("killed*/tree/d*/f5*"))) > 2)
    [task] = descendants_of(os.getpid()) - old
    os.kill(task, 9)
    with pytest.raises(OSError, match="was ended"):
        future.result(10)
    assert not list(target.parent.glob("killed*"))


def test_small_system_is_small() -> None:
    assert len(small_system()) < 20 << 20

"""Images in files and directories, and what real tools make and serve."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from sandbox_anyio.local.images import (
    ImageError,
    Platform,
)

from ._images import (
    HeldRuntime,
    MadeImage,
    archive,
    digest_of,
    held_runtime,
    make_image,
    member,
    small_system,
    text_file,
    tree_of,
    wait_until,
    write_layout,
)
from ._images_registry import HURRIED, Fetcher


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def held(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HeldRuntime]:
    with held_runtime(tmp_path_factory.mktemp("state"), request.param) as held:
        yield held


@pytest.fixture
def fetch(held: HeldRuntime) -> Fetcher:
    return Fetcher.fresh(held)


# --- Layouts -------------------------------------------------------------------------


def test_a_layout_of_one_image(fetch: Fetcher, tmp_path: Path) -> None:
    image = make_image(small_system(), archive(text_file("f", "hello")), config={"Env": ["A=1"]})
    write_layout(tmp_path / "layout", {None: image})
    fetched = fetch(f"oci:{tmp_path}/layout")
    assert fetched.digest == image.digest
    assert fetch.run(fetched, "cat /f; echo $A").stdout == "hello1\n"


def test_a_layout_of_several_images(fetch: Fetcher, tmp_path: Path) -> None:
    images = {tag: make_image(archive(tag)) for tag in ("one", "latest", "name:two")}
    write_layout(tmp_path / "layout", dict(images))
    for suffix, name in (
        (":one", "one"),
        ("", "latest"),
        (":two", "name:two"),
        (":name:two", "name:two"),
    ):
        assert fetch(f"oci:{tmp_path}/layout{suffix}").digest == images[name].digest
    with pytest.raises(ImageError, match="no image with the tag 'three'"):
        fetch(f"oci:{tmp_path}/layout:three")


def test_a_damaged_layout_is_refused(fetch: Fetcher, tmp_path: Path) -> None:
    image = make_image(archive("file"))
    write_layout(tmp_path / "layout", {None: image})
    for number, digest in enumerate(image.blobs):
        blob = tmp_path / "layout/blobs/sha256" / digest.removeprefix("sha256:")
        data = blob.read_bytes()
        for changed in (data[:-1], data + b"x", data[:-1] + bytes([data[-1] ^ 1])):
            blob.write_bytes(changed)
            with pytest.raises(ImageError, match="does not have its digest"):
                fetch(f"oci:{tmp_path}/layout")
        blob.unlink()
        if number == 0:
            os.mkfifo(blob)
        with pytest.raises(ImageError, match=r"cannot be read: .* (is no file|No such file)"):
            fetch(f"oci:{tmp_path}/layout")
        blob.unlink(missing_ok=True)
        blob.write_bytes(data)
    assert fetch(f"oci:{tmp_path}/layout")
    (tmp_path / "layout/index.json").write_bytes(image.manifest)
    with pytest.raises(ImageError, match="no image layout"):
        fetch(f"oci:{tmp_path}/layout")
    with pytest.raises(ImageError, match="cannot be read"):
        fetch(f"oci:{tmp_path}/nowhere")


# --- docker save ---------------------------------------------------------------------


def saved(*images: tuple[MadeImage, list[bytes], list[str]], links: bool = False) -> bytes:
    """A file as `docker save` makes it: images, their layers uncompressed, and their names."""
    members: dict[str, Any] = {}
    listing = []
    for image, layers, names in images:
        configuration = next(iter(image.blobs.values()))
        config = f"{digest_of(configuration).removeprefix('sha256:')}.json"
        members[config] = (member(config), configuration)
        paths = []
        for number, layer in enumerate(layers):
            real = f"{digest_of(layer)[7:]}/layer.tar"
            members[real] = (member(real), layer)
            path = f"{config[:8]}{number}/layer.tar"
            members[path] = member(path, tarfile.SYMTYPE, linkname=f"../{real}")
            paths.append(path if links else real)
        listing.append({"Config": config, "RepoTags": names, "Layers": paths})
    members["manifest.json"] = text_file("manifest.json", json.dumps(listing))
    return archive(*members.values())


@pytest.mark.parametrize("links", [False, True])
def test_a_saved_image(fetch: Fetcher, tmp_path: Path, links: bool) -> None:
    layers = [small_system(), archive(text_file("f", "hello"), "srv/")]
    image = make_image(*layers, config={"WorkingDir": "/srv"})
    (tmp_path / "x.tar").write_bytes(saved((image, layers, ["name:1"]), links=links))
    fetched = fetch(f"docker-archive:{tmp_path}/x.tar")
    assert fetched.config.work_dir == "/srv"
    assert fetched.digest == next(iter(image.blobs))
    kept = [fetch.digest_of(layer) for layer in fetched.layers]
    assert kept == [digest_of(layer) for layer in reversed(layers)]
    assert fetch.run(fetched, "pwd; cat /f").stdout == "/srv\nhello"


def test_several_saved_images(fetch: Fetcher, tmp_path: Path) -> None:
    one, two = archive("one"), archive("two")
    data = saved((make_image(one), [one], ["a/x:1"]), (make_image(two), [two], ["a/x:2", "b:3"]))
    (tmp_path / "x.tar").write_bytes(data)
    for tag in ("2", "x:2", "a/x:2", "b:3"):
        assert (fetch(f"docker-archive:{tmp_path}/x.tar:{tag}").layers[0] / "two").exists()
    with pytest.raises(ImageError, match=r"several images, say which one: a/x:1, a/x:2, b:3"):
        fetch(f"docker-archive:{tmp_path}/x.tar")
    with pytest.raises(ImageError, match="no image '4'"):
        fetch(f"docker-archive:{tmp_path}/x.tar:4")


def test_damaged_saved_images_are_refused(fetch: Fetcher, tmp_path: Path) -> None:
    layer = archive("file")
    good = saved((make_image(layer), [layer], []))
    other = saved((make_image(archive("other")), [layer], []))
    listing = text_file("manifest.json", '[{"Config": "c", "Layers": ["../../etc/passwd"]}]')
    for data, message in (
        (other, "not what it should be"),
        (gzip.compress(good, mtime=0), "gunzip"),
        (good[:700], "cut off"),
        (b"x" * 2000, "checksum"),
        (archive("file"), "has no 'manifest.json'"),
        (archive(text_file("manifest.json", "{}")), "malformed"),
        (archive(text_file("manifest.json", "[{}]")), "malformed"),
        (archive(text_file("c", "{}"), listing), "has no"),
    ):
        (tmp_path / "x.tar").write_bytes(data)
        with pytest.raises(ImageError, match=message):
            fetch(f"docker-archive:{tmp_path}/x.tar")


# --- Trees ---------------------------------------------------------------------------


def test_a_directory_is_an_image(fetch: Fetcher, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with tarfile.open(fileobj=io.BytesIO(small_system())) as tar:
        tar.extractall(root)
    (root / "etc/link").symlink_to("/nowhere")
    (root / "etc/hard").hardlink_to(root / "etc/passwd")
    (root / "bin/setuid").write_bytes(b"x")
    (root / "bin/setuid").chmod(0o4711)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    fetched = fetch(f"dir:{root}")
    assert fetched.digest == fetch.digest_of(fetched.layers[0])
    assert fetched.config.env == {}
    expected = {name: entry for name, entry in tree_of(root).items() if name != "socket"}
    assert tree_of(fetched.layers[0]) == expected
    assert (fetched.layers[0] / "etc/hard").stat().st_nlink == 2
    assert fetch.run(fetched, "echo works").stdout == "works\n"
    (tmp_path / "link").symlink_to(root)
    assert fetch(f"dir:{tmp_path}/link") == attrs.evolve(fetched, reference=f"dir:{tmp_path}/link")


def test_what_is_no_directory_is_refused(fetch: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("file", "nowhere"):
        with pytest.raises(ImageError, match="there is no directory"):
            fetch(f"dir:{tmp_path}/{name}")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.zst"])
def test_an_archive_of_a_tree_is_an_image(fetch: Fetcher, tmp_path: Path, suffix: str) -> None:
    data = small_system()
    packed = {"tar": bytes, "tar.gz": lambda data: gzip.compress(data, 1)}.get(suffix)
    if packed is None:
        packed = pytest.importorskip("zstandard").ZstdCompressor().compress
    (tmp_path / f"x.{suffix}").write_bytes(packed(data))
    fetched = fetch(f"tar:{tmp_path}/x.{suffix}")
    assert fetched.digest == digest_of(data)
    assert fetch.run(fetched, "echo works").stdout == "works\n"


def test_what_is_no_archive_is_refused(fetch: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("x" * 2000)
    with pytest.raises(ImageError, match="not a tar archive"):
        fetch(f"tar:{tmp_path}/x.tar")
    with pytest.raises(ImageError, match="cannot be read"):
        fetch(f"tar:{tmp_path}")


def test_files_of_this_machine_may_be_forbidden(fetch: Fetcher, tmp_path: Path) -> None:
    settings = attrs.evolve(HURRIED, local_files=False)
    for reference in (f"dir:{tmp_path}", f"oci:{tmp_path}", "docker-daemon:x"):
        with pytest.raises(ImageError, match="is not allowed"):
            fetch(reference, settings=settings)


# --- skopeo and real registries --------------------------------------------------------


def test_without_skopeo_the_message_says_so(
    fetch: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ImageError, match="can only be read with skopeo"):
        fetch("docker-daemon:name:1")


def _fake_skopeo(directory: Path, script: str) -> None:
    directory.mkdir()
    (directory / "skopeo").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "skopeo").chmod(0o755)


def test_skopeo_is_asked_for_what_only_it_can_read(
    fetch: Fetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(archive("file"))
    write_layout(tmp_path / "made", {"image": image})
    script = (
        f'for last; do :; done; echo "$@" > {tmp_path}/asked\nlayout=${{last#oci:}}\n'
        f"cp -r {tmp_path}/made ${{layout%:image}}"
    )
    _fake_skopeo(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert fetch("docker-daemon:name:1").digest == image.digest
    asked = (tmp_path / "asked").read_text()
    assert "-- docker-daemon:name:1 oci:" in asked
    assert f"--override-arch {Platform.of_this_machine().architecture}" in asked
    (tmp_path / "bin/skopeo").write_text("#!/bin/sh\necho no such thing >&2; exit 1")
    with pytest.raises(ImageError, match=r"skopeo cannot read .*: no such thing"):
        fetch("docker-daemon:name:1")
    (tmp_path / "bin/skopeo").write_text("#!/nowhere/interpreter")
    with pytest.raises(ImageError, match="cannot be started"):
        fetch("docker-daemon:name:1")


def test_a_cancelled_skopeo_is_ended(
    fetch: Fetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_skopeo(tmp_path / "bin", f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    future = fetch.held.portal.start_task_soon(fetch.fetch, "docker-daemon:x")
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    pid = int((tmp_path / "pid").read_text())
    future.cancel()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def real_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's docker-registry with an image that skopeo pushed; the image's reference."""
    program = shutil.which("docker-registry")
    if program is None or shutil.which("skopeo") is None:
        pytest.skip("docker-registry and skopeo are not both installed")
    place = tmp_path_factory.mktemp("registry")
    port = _free_port()
    (place / "config.yml").write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {place}/data\n"
        f"http:\n  addr: 127.0.0.1:{port}\n"
    )
    layers = small_system(), archive(text_file("srv/f", "hello"))
    image = make_image(*layers, config={"WorkingDir": "/srv", "Env": ["A=b"]})
    write_layout(place / "layout", {"1": image})
    log = (place / "log").open("wb")
    server = subprocess.Popen([program, "serve", str(place / "config.yml")], stdout=log, stderr=log)
    try:
        wait_until(lambda: _answers(port))
        for name, options in (("oci", []), ("docker", ["--format", "v2s2"])):
            copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", *options]
            target = f"docker://127.0.0.1:{port}/{name}/image:1"
            subprocess.run([*copy, f"oci:{place}/layout:1", target], check=True)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
        log.close()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("name", ["oci", "docker"])
def test_a_real_registry_is_understood(
    fetch: Fetcher, real_registry: str, tmp_path: Path, name: str
) -> None:
    image = fetch(f"{real_registry}/{name}/image:1")
    assert fetch.run(image, "cat f; echo $A").stdout == "hellob\n"
    assert image.config.work_dir == "/srv"
    assert fetch(f"{real_registry}/{name}/image@{image.digest}").layers == image.layers
    with pytest.raises(ImageError, match="with the tag '2'"):
        fetch(f"{real_registry}/{name}/image:2")
    with pytest.raises(ImageError, match="there is no image 'other'"):
        fetch(f"{real_registry}/other:2")
    for kind in ("oci", "docker-archive"):
        target = f"{kind}:{tmp_path}/{kind}:name:1"
        source = f"docker://{real_registry}/{name}/image:1"
        copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false"]
        subprocess.run([*copy, source, target], check=True)
        assert fetch(f"{kind}:{tmp_path}/{kind}").layers == image.layers


def test_skopeo_itself_is_used(fetch: Fetcher, real_registry: str, tmp_path: Path) -> None:
    source = f"docker://{real_registry}/oci/image:1"
    archive_file = f"oci-archive:{tmp_path}/x.tar:1"
    copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", source, archive_file]
    subprocess.run(copy, check=True)
    image = fetch(archive_file)
    assert fetch.run(image, "cat /srv/f").stdout == "hello"

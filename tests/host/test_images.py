"""Images from a registry: whatever it is like, they arrive intact or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import anyio
import attrs
import pytest

from sandbox_anyio.local.images import (
    Credentials,
    Image,
    ImageError,
)

from ._images import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    HeldRuntime,
    MadeImage,
    archive,
    digest_of,
    held_runtime,
    make_image,
    make_index,
    member,
    small_system,
    text_file,
)
from ._images_registry import FakeRegistry, Fetcher


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def held(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HeldRuntime]:
    with held_runtime(tmp_path_factory.mktemp("state"), request.param) as held:
        yield held


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry().running() as registry:
        yield registry


@pytest.fixture
def fetch(held: HeldRuntime) -> Fetcher:
    return Fetcher.fresh(held)


def small(*files: Any, **options: Any) -> MadeImage:
    """An image that cannot be run, but fetched quickly."""
    return make_image(archive(*files), **options)


# --- Good registries -----------------------------------------------------------------


def test_an_image_is_fetched_and_runs(fetch: Fetcher, registry: FakeRegistry) -> None:
    config = {
        "User": "0:0",
        "WorkingDir": "/srv/app",
        "Env": ["A=b=c", "PATH=/bin", "EMPTY=", "NONSENSE"],
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000-8002": {}},
        "Entrypoint": ["/bin/tool", "--flag"],
        "Cmd": ["run"],
        "Labels": {"org": "x"},
    }
    image = make_image(
        small_system(),
        archive(text_file("srv/app/old", "old"), text_file("srv/app/file", "low"), "srv/all/x"),
        archive(
            text_file("srv/app/file", "high"),
            "srv/app/.wh.old",
            "srv/all/.wh..wh..opq",
            "bin/.wh.rm",
        ),
        config=config,
    )
    reference = registry.serve("some/tool", "1.0", image)
    fetched = fetch(reference)
    assert fetched.reference == reference
    assert fetched.digest == image.digest
    assert len(fetched.layers) == 3
    assert fetch.digest_of(fetched.layers[2]) == digest_of(small_system())
    assert fetched.size > 1_000_000
    assert attrs.asdict(fetched.config) == {
        "user": "0:0",
        "work_dir": "/srv/app",
        "env": {"A": "b=c", "PATH": "/bin", "EMPTY": ""},
        "exposed_ports": (80, 8000, 8001, 8002),
        "entrypoint": ("/bin/tool", "--flag"),
        "cmd": ("run",),
        "labels": {"org": "x"},
    }

    result = fetch.run(fetched, "pwd; echo $A; cat file; ls; ls /srv/all; ls /bin/rm")
    assert result.stdout == "/srv/app\nb=c\nhighfile\n"
    assert "No such file" in result.stderr
    before = len(registry.asked)
    assert fetch(reference) == fetched
    assert len(registry.asked) == before + 2  # the manifest and the configuration


def test_layers_are_shared_and_removed(fetch: Fetcher, registry: FakeRegistry) -> None:
    common, mine, yours = archive("common"), archive("mine"), archive("yours")
    first = registry.serve("a", "1", make_image(common, mine))
    second = registry.serve("b", "1", make_image(common, yours, compress=bytes, layer_type="x"))
    one = fetch(first)
    registry.asked.clear()
    two = fetch(second)
    assert one.layers[1] == two.layers[1]
    assert len(registry.paths("blobs")) == 2  # a configuration and a layer
    assert len(fetch.names()) == 3
    digest = fetch.digest_of(one.layers[0])
    fetch.remove(one.layers[0])
    assert fetch.store.find(digest) is None
    assert fetch.names() == sorted(path.name for path in two.layers)
    assert (fetch(first)).layers == one.layers
    with pytest.raises(ValueError, match="no digest"):
        fetch.store.find("../../etc")


def test_the_same_image_twice_at_once(fetch: Fetcher, registry: FakeRegistry) -> None:
    reference = registry.serve("a", "1", small("file"))
    images: list[Image] = []

    async def one() -> None:
        images.append(await fetch.fetch(reference))

    async def four() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(one)

    fetch.held.call(four)
    assert len({image.layers for image in images}) == 1
    assert len(fetch.names()) == 1
    assert len(registry.paths("blobs")) == 4 + 1


def test_a_layer_that_comes_twice_is_used_once(fetch: Fetcher, registry: FakeRegistry) -> None:
    again = archive(text_file("f", "again"))
    reference = registry.serve("a", "1", make_image(again, archive(text_file("f", "b")), again))
    image = fetch(reference)
    assert [(layer / "f").read_text() for layer in image.layers] == ["again", "b"]


def test_what_is_below_a_layer_that_hides_all_is_not_used(
    fetch: Fetcher, registry: FakeRegistry
) -> None:
    layers = archive("low"), archive(".wh..wh..opq", "middle"), archive("high")
    reference = registry.serve("a", "1", make_image(*layers))
    image = fetch(reference)
    assert [[path.name for path in layer.iterdir()] for layer in image.layers] == [
        ["high"],
        ["middle"],
    ]


@pytest.mark.parametrize("kind", [INDEX, DOCKER_LIST])
def test_the_right_platform_is_chosen(fetch: Fetcher, registry: FakeRegistry, kind: str) -> None:
    here = {"os": "linux", "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64"}
    mine, other = small("mine"), small("other", architecture="s390x")
    newest = small("newest")
    index = make_index(
        (other, {"os": "linux", "architecture": "s390x"}),
        (newest, {**here, "variant": "v9"}),
        (small("windows"), {**here, "os": "windows"}),
        (mine, here),
        (small("signature"), {"os": "unknown", "architecture": "unknown"}),
        kind=kind,
    )
    for image in (other, newest, mine):
        registry.serve("a", "x", image)
    reference = registry.serve("a", "1", mine, document=index, kind=kind)
    image = fetch(reference)
    assert image.digest == digest_of(index)
    assert (image.layers[0] / "mine").exists()
    lonely = make_index((other, {"os": "linux", "architecture": "s390x"}), kind=kind)
    reference = registry.serve("a", "2", other, document=lonely, kind=kind)
    with pytest.raises(ImageError, match=r"is not there for linux/.*: it is for linux/s390x"):
        fetch(reference)
    reference = registry.serve("a", "3", other)
    with pytest.raises(ImageError, match="it is for linux/s390x"):
        fetch(reference)


def test_an_index_may_hold_an_index(fetch: Fetcher, registry: FakeRegistry) -> None:
    image = small("file")
    here = {"os": "linux", "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64"}
    inner = make_index((image, here))
    registry.manifests["a", digest_of(inner)] = (inner, INDEX)
    outer = make_index((MadeImage({}, inner), None))
    reference = registry.serve("a", "1", image, document=outer, kind=INDEX)
    assert (fetch(reference)).digest == digest_of(outer)
    for _ in range(3):
        registry.manifests["a", digest_of(outer)] = (outer, INDEX)
        outer = make_index((MadeImage({}, outer), None))
    reference = registry.serve("a", "2", image, document=outer, kind=INDEX)
    with pytest.raises(ImageError, match="index of indexes"):
        fetch(reference)


@pytest.mark.parametrize(
    ("in_document", "in_header"),
    [
        (MANIFEST, MANIFEST),
        (DOCKER_MANIFEST, DOCKER_MANIFEST),
        (None, MANIFEST),
        (None, None),
        (None, "application/json; charset=utf-8"),
    ],
)
def test_documents_need_not_say_what_they_are(
    fetch: Fetcher, registry: FakeRegistry, in_document: str | None, in_header: str | None
) -> None:
    image = small("file", manifest_type=in_document)
    reference = registry.serve("a", "1", image, kind=in_header)
    assert (fetch(reference)).digest == image.digest


def test_by_digest(fetch: Fetcher, registry: FakeRegistry) -> None:
    image = small("file")
    registry.serve("a/b", "1", image)
    fetched = fetch(f"{registry.host}/a/b@{image.digest}")
    assert fetched.digest == image.digest
    assert fetch(f"{registry.host}/a/b:any@{image.digest}")
    registry.manifests["a/b", image.digest] = (image.manifest + b" ", MANIFEST)
    with pytest.raises(ImageError, match="does not have the digest"):
        fetch(f"{registry.host}/a/b@{image.digest}")


def test_large_layers_pass_through(fetch: Fetcher, registry: FakeRegistry) -> None:
    data = os.urandom(12 << 20)
    layer = archive(text_file("small", "x"), (member("big"), data))
    reference = registry.serve("a", "1", make_image(layer))
    image = fetch(reference)
    copy = (image.layers[0] / "big").read_bytes()
    assert hashlib.sha256(copy).digest() == hashlib.sha256(data).digest()


# --- Being let in --------------------------------------------------------------------


def test_a_token_is_fetched_once(fetch: Fetcher, registry: FakeRegistry) -> None:
    registry.token = "secret-token"
    reference = registry.serve("a", "1", small("file"))
    fetch(reference)
    assert len(registry.paths("/token")) == 1
    assert "scope=repository%3Ax%3Apull" in registry.paths("/token")[0]
    assert [asked.headers.get("authorization") for asked in registry.asked[-2:]] == [
        "Bearer secret-token"
    ] * 2


def test_credentials_get_the_token(fetch: Fetcher, registry: FakeRegistry) -> None:
    registry.token = "secret-token"
    registry.users = {"ann": "pässword:x"}
    reference = registry.serve("a", "1", small("file"))
    for credentials, message in (
        (None, "may need a user name"),
        (Credentials("ann", "wrong"), "user name 'ann' or the password is not accepted"),
    ):
        with pytest.raises(ImageError, match=message) as caught:
            fetch(reference, credentials)
        assert "wrong" not in str(caught.value)
    assert fetch(reference, Credentials("ann", "pässword:x"))
    assert "word" not in repr(Credentials("ann", "pässword:x"))


def test_basic_authentication(fetch: Fetcher, registry: FakeRegistry) -> None:
    registry.basic = True
    registry.users = {"ann": "password"}
    reference = registry.serve("a", "1", small("file"))
    with pytest.raises(ImageError, match="not authorized to pull"):
        fetch(reference)
    with pytest.raises(ImageError, match="not accepted"):
        fetch(reference, Credentials("ann", "wrong"))
    assert fetch(reference, Credentials("ann", "password"))


@pytest.mark.parametrize(
    ("realm", "message"),
    [
        ("ftp://127.0.0.1/token", "impossible place for tokens"),
        ("nowhere", "impossible place for tokens"),
        ("http://127.0.0.1:1/token", "cannot be asked"),
    ],
)
def test_impossible_places_for_tokens(
    fetch: Fetcher, registry: FakeRegistry, realm: str, message: str
) -> None:
    registry.token = "x"
    registry.realm = realm
    reference = registry.serve("a", "1", small("file"))
    with pytest.raises(ImageError, match=message):
        fetch(reference, Credentials("ann", "password"))


def test_a_token_that_cannot_be_sent(fetch: Fetcher, registry: FakeRegistry) -> None:
    registry.token = "x\r\nEvil: yes"
    reference = registry.serve("a", "1", small("file"))
    with pytest.raises(ImageError, match="cannot be sent"):
        fetch(reference)


# --- Redirects -----------------------------------------------------------------------


def test_blobs_may_be_elsewhere(fetch: Fetcher, registry: FakeRegistry) -> None:
    registry.token = "secret-token"
    image = small("file")
    reference = registry.serve("a", "1", image)
    with FakeRegistry().running() as elsewhere:
        elsewhere.blobs |= image.blobs
        registry.blobs_elsewhere = elsewhere.url
        assert fetch(reference, Credentials("ann", "password"))
        assert len(elsewhere.asked) == 2
        assert all("authorization" not in asked.headers for asked in elsewhere.asked)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file:///etc/passwd?", "redirects to where no image can be"),
        ("gopher://127.0.0.1", "redirects to where no image can be"),
        ("", "redirects without an end"),
    ],
)
def test_bad_redirects_are_not_followed(
    fetch: Fetcher, registry: FakeRegistry, place: str, message: str
) -> None:
    registry.blobs_elsewhere = place
    reference = registry.serve("a", "1", small("file"))
    with pytest.raises(ImageError, match=message):
        fetch(reference)
    assert len(registry.paths("blobs")) <= 6

"""Images from bad registries, and fetching that is interrupted: nothing half is left."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from sandbox_anyio.local.images import (
    FetchSettings,
    ImageError,
    ImageStore,
    Patience,
    fetch_image,
)
from sandbox_proto.plans.retry import RetryPolicy

from ._images import (
    HeldRuntime,
    MadeImage,
    archive,
    digest_of,
    held_runtime,
    make_image,
    text_file,
    wait_until,
)
from ._images_registry import HURRIED, FakeRegistry, Fetcher
from ._runtime import descendants_of, open_descriptors, opened


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


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_layers_are_gone_on_with(fetch: Fetcher, registry: FakeRegistry, ranges: bool) -> None:
    layer = archive(text_file("file", "x" * 300_000))
    image = make_image(layer, compress=bytes)
    reference = registry.serve("a", "1", image)
    registry.ranges = ranges
    registry.cuts = [40, 1_000_000, 100_000, 150_000]  # the first two are the configuration's
    fetched = fetch(reference)
    assert (fetched.layers[0] / "file").stat().st_size == 300_000
    wanted = [asked.headers.get("range") for asked in registry.asked if "blobs" in asked.path]
    assert wanted[1] == "bytes=40-"
    assert wanted[3] == "bytes=100000-"


@pytest.mark.parametrize("cuts", [[0, 0, 0, 0, 0], [10, 10, 10, 10, 10]])
def test_a_registry_that_always_breaks_off_is_given_up(
    fetch: Fetcher, registry: FakeRegistry, cuts: list[int]
) -> None:
    reference = registry.serve("a", "1", small("file"))
    registry.cuts = list(cuts)
    with pytest.raises(ImageError, match="broke off in the middle of a layer"):
        fetch(reference)
    assert fetch.names() == []


def test_a_drip_is_given_up(fetch: Fetcher, registry: FakeRegistry) -> None:
    reference = registry.serve("a", "1", small("file"))
    registry.drip = 0.05
    settings = FetchSettings(
        patience=Patience(seconds=0.2, slowest=1e6, retry=RetryPolicy(max_retries=0))
    )
    with pytest.raises(ImageError, match=r"too slow: \d+ of \d+ bytes"):
        fetch(reference, settings=settings)


def _other_blob(registry: FakeRegistry, image: MadeImage, number: int, blob: bytes) -> None:
    registry.blobs[list(image.blobs)[number]] = blob


@pytest.mark.parametrize("number", [0, 2], ids=["configuration", "layer"])
@pytest.mark.parametrize("change", ["other", "short", "long", "very long"])
def test_damaged_blobs_are_refused(
    fetch: Fetcher, registry: FakeRegistry, number: int, change: str
) -> None:
    image = small("file", config={"Env": ["A=b"]})
    reference = registry.serve("a", "1", image)
    blob = list(image.blobs.values())[number]
    changed = {
        "other": blob[:-1] + bytes([blob[-1] ^ 1]),
        "short": blob[:-1],
        "long": blob + b"x",
        "very long": blob + bytes(100_000),
    }[change]
    _other_blob(registry, image, number, changed)
    with pytest.raises(ImageError, match=r"arrived damaged|something else than a layer"):
        fetch(reference)
    assert fetch.names() == []


def test_a_layer_must_be_the_one_the_configuration_names(
    fetch: Fetcher, registry: FakeRegistry
) -> None:
    """Else an image could plant its own layer in place of another's."""
    other = digest_of(archive("other"))
    reference = registry.serve("a", "1", small("file", diff_ids=[other]))
    with pytest.raises(ImageError, match="not what it should be"):
        fetch(reference)
    assert fetch.names() == []
    assert fetch.store.find(other) is None
    reference = registry.serve("a", "2", small("file", diff_ids=[other, other]))
    with pytest.raises(ImageError, match="not those it says it has"):
        fetch(reference)


def test_a_hostile_layer_is_refused(fetch: Fetcher, registry: FakeRegistry) -> None:
    reference = registry.serve("a", "1", make_image(archive("good"), archive("../../evil")))
    with pytest.raises(ImageError, match="leads out"):
        fetch(reference)
    narrow = attrs.evolve(fetch, store=ImageStore(fetch.held.runtime, fetch.place, max_entries=1))
    reference = registry.serve("a", "2", small("one", "two"))
    with pytest.raises(ImageError, match="more than 1 entries"):
        narrow(reference)
    assert all((fetch.place / name / "good").exists() for name in fetch.names())


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"not json", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"{}", "no container image"),
        (b'{"schemaVersion": 1, "fsLayers": []}', "schema 1"),
        (b'{"config": {}, "layers": []}', "damaged, or uses digests"),
        (b'{"config": 1, "layers": []}', "malformed"),
        (b'{"config": {}, "layers": 5}', "malformed"),
        (b'{"manifests": 5}', "malformed"),
        (b'{"manifests": []}', "names no platform"),
        (b'{"config": {"digest": "sha512:ab", "size": 1}, "layers": []}', "other than sha256"),
        (
            b'{"layers": [], "config": {"digest": "sha256:%s", "size": -1}}' % (b"0" * 64),
            "a size in its manifest is none",
        ),
        (
            b'{"layers": [], "config": {"digest": "sha256:%s", "size": 99999999}}' % (b"0" * 64),
            "too large",
        ),
        (
            b'{"layers": [], "config": {"digest": "sha256:%s", "size": 9}}' % (b"0" * 64),
            "has lost a layer",
        ),
        (b"[" * 100_000, "no JSON object"),
    ],
)
def test_nonsense_is_refused_in_words(
    fetch: Fetcher, registry: FakeRegistry, document: bytes, message: str
) -> None:
    reference = registry.serve("a", "1", small("file"), document=document, kind=None)
    with pytest.raises(ImageError, match=message):
        fetch(reference)


def test_what_is_not_there(fetch: Fetcher, registry: FakeRegistry) -> None:
    registry.serve("some/tool", "1", small("file"))
    host = registry.host
    for reference, message in (
        (f"{host}/some/tool:2", "no image 'some/tool' at .* with the tag '2'"),
        (f"{host}/some/tool", "with the tag 'latest'"),
        (f"{host}/some/tool@sha256:{'0' * 64}", "with the digest"),
        (f"{host}/other:1", "there is no image 'other' at"),
        ("127.0.0.1:1/tool", "127.0.0.1:1 cannot be asked"),
        ("tool.invalid/tool", "tool.invalid cannot be asked"),
        ("Upper/Case", "no image reference"),
    ):
        with pytest.raises(ImageError, match=message):
            fetch(reference)


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "not authorized"), (429, "no more requests"), (500, "answered 500"), (204, "no JSON")],
)
def test_other_answers(fetch: Fetcher, registry: FakeRegistry, status: int, message: str) -> None:
    registry.answer_with = (status, b"")
    settings = FetchSettings(patience=Patience(retry=RetryPolicy(max_retries=0)))
    with pytest.raises(ImageError, match=message):
        fetch(f"{registry.host}/a:1", settings=settings)


def test_an_image_may_not_be_larger_than_allowed(fetch: Fetcher, registry: FakeRegistry) -> None:
    reference = registry.serve("a", "1", small("file"))
    with pytest.raises(ImageError, match="too large"):
        fetch(reference, settings=attrs.evolve(HURRIED, max_download=10))


# --- Interruptions -------------------------------------------------------------------


def test_a_cancelled_fetch_leaves_nothing(fetch: Fetcher, registry: FakeRegistry) -> None:
    image = make_image(*(archive(text_file(f"f{n}", "x" * 200_000)) for n in range(4)))
    reference = registry.serve("a", "1", image)
    fetch(registry.serve("b", "1", small("warm")))
    processes, descriptors = descendants_of(os.getpid()), len(open_descriptors())

    async def be_cancelled(milliseconds: int) -> None:
        with anyio.move_on_after(milliseconds / 1000):
            await fetch.fetch(reference)

    for milliseconds in (1, 5, 10, 15, 20, 30):
        fetch.held.call(be_cancelled, milliseconds)
        assert descendants_of(os.getpid()) == processes
        assert not [name for name in fetch.names() if "unfinished" in name]
        wait_until(lambda: len(open_descriptors()) <= descriptors)
    fetched = fetch(reference)
    assert [(layer / f"f{3 - n}").exists() for n, layer in enumerate(fetched.layers)] == [True] * 4


def test_what_an_earlier_host_left_is_cleaned(fetch: Fetcher, registry: FakeRegistry) -> None:
    reference = registry.serve("a", "1", small("file"))
    fetch.held.call(fetch.store.clean)
    image = fetch(reference)
    (fetch.place / "sha256-0000000000000000.json.unfinished-00").write_text("half")
    (fetch.place / "sha256-0000000000000000.json").write_text("{}")
    (fetch.place / "layer.unfinished-11").mkdir()
    fetch.held.call(fetch.store.clean)
    assert sorted(path.name for path in fetch.place.iterdir()) == [
        image.layers[0].name,
        f"{image.layers[0].name}.json",
    ]
    assert fetch(reference) == image


def test_layers_whose_digests_begin_alike_are_kept_apart(
    fetch: Fetcher, registry: FakeRegistry
) -> None:
    reference = registry.serve("a", "1", small("file"))
    image = fetch(reference)
    [layer] = image.layers
    digest = fetch.digest_of(layer)
    record = fetch.place / f"{layer.name}.json"
    impostor = f"sha256:{layer.name.removeprefix('sha256-')}{'0' * 48}"
    record.write_text(record.read_text().replace(digest, impostor))
    other = fetch(reference)
    assert other.layers[0].name == f"sha256-{digest[7:39]}"
    assert fetch.store.find(impostor) is not None
    assert {path.is_dir() for path in (*image.layers, *other.layers)} == {True}


def test_a_full_disk_is_told(
    fetch: Fetcher, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = registry.serve("a", "1", small("file"))

    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ImageError, match="cannot be stored here: No space left"):
        fetch(reference)


def test_without_isolation_images_are_refused(tmp_path: Path, registry: FakeRegistry) -> None:
    reference = registry.serve("a", "1", small("file"))

    async def fetch_plainly() -> None:
        async with opened(tmp_path, "none") as runtime:
            await fetch_image(reference, ImageStore(runtime, tmp_path / "images"), settings=HURRIED)

    with pytest.raises(ImageError, match="needs isolation"):
        anyio.run(fetch_plainly)


def test_gzip_in_parts_is_unpacked(fetch: Fetcher, registry: FakeRegistry) -> None:
    def pack(data: bytes) -> bytes:
        return gzip.compress(data[:700]) + gzip.compress(data[700:])

    reference = registry.serve("a", "1", small("file", compress=pack))
    assert (fetch(reference)).layers

"""References, challenges and documents, taken apart without any I/O."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_anyio.local.images import ImageError
from sandbox_anyio.local.images.challenges import Challenge, parse_challenges
from sandbox_anyio.local.images.manifests import (
    Index,
    Manifest,
    Platform,
    parse_configuration,
    parse_manifest,
)
from sandbox_anyio.local.images.references import (
    PathReference,
    RegistryReference,
    SkopeoReference,
    parse_reference,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4
HUB = "https://registry-1.docker.io"


@pytest.mark.parametrize(
    ("text", "place", "repository", "tag", "digest"),
    [
        ("python", HUB, "library/python", "latest", None),
        ("python:3.12-slim", HUB, "library/python", "3.12-slim", None),
        ("grafana/grafana:1", HUB, "grafana/grafana", "1", None),
        ("docker.io/python", HUB, "library/python", "latest", None),
        ("index.docker.io/a/b", HUB, "a/b", "latest", None),
        ("docker://python:3", HUB, "library/python", "3", None),
        (f"python@{DIGEST}", HUB, "library/python", None, DIGEST),
        (f"python:3@{DIGEST}", HUB, "library/python", "3", DIGEST),
        ("ghcr.io/owner/name/more:v1", "https://ghcr.io", "owner/name/more", "v1", None),
        ("example.com:5000/name", "https://example.com:5000", "name", "latest", None),
        ("localhost/name", "http://localhost", "name", "latest", None),
        ("localhost:5000/name:1", "http://localhost:5000", "name", "1", None),
        ("127.0.0.1:5000/name", "http://127.0.0.1:5000", "name", "latest", None),
        ("[::1]:5000/a_b__c-d.e/f", "http://[::1]:5000", "a_b__c-d.e/f", "latest", None),
        ("https://localhost:5000/name", "https://localhost:5000", "name", "latest", None),
        ("http://registry/name", "http://registry", "name", "latest", None),
        ("plain.example:80/name", "http://plain.example:80", "name", "latest", None),
        ("oci:latest", HUB, "library/oci", "latest", None),
        ("tar:1", HUB, "library/tar", "1", None),
    ],
)
def test_registry_references(
    text: str, place: str, repository: str, tag: str | None, digest: str | None
) -> None:
    reference = parse_reference(text, plain_http={"plain.example:80"})
    assert isinstance(reference, RegistryReference)
    assert f"{reference.scheme}://{reference.host}" == place
    assert (reference.repository, reference.tag, reference.digest) == (repository, tag, digest)
    assert reference.version == (digest or tag)
    assert reference.registry == ("docker.io" if place == HUB else reference.host)


@pytest.mark.parametrize(
    ("text", "kind", "path", "tag"),
    [
        ("oci:/a/layout", "oci", "/a/layout", None),
        ("oci:/a/layout:1.0", "oci", "/a/layout", "1.0"),
        ("docker-archive:/a/x.tar", "docker-archive", "/a/x.tar", None),
        ("docker-archive:/a/x.tar:name:tag", "docker-archive", "/a/x.tar", "name:tag"),
        ("dir:/a/with:colon", "dir", "/a/with:colon", None),
        ("tar:/a/x.tar.gz", "tar", "/a/x.tar.gz", None),
    ],
)
def test_path_references(text: str, kind: str, path: str, tag: str | None) -> None:
    assert parse_reference(text) == PathReference(text, kind, Path(path), tag)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["docker-daemon:name:1", "containers-storage:name", "oci-archive:/a/x.tar"]
)
def test_references_for_skopeo(text: str) -> None:
    assert parse_reference(text) == SkopeoReference(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "/", "a/", "/a", "UPPER", "a b", "a:", "a:b:c", "a@", "a@sha256:12", "a//b"),
        *("a@sha512:00", "-a", "a..b", "a___b", "a:.tag", f"a:{'t' * 129}", "a" * 256, "a\n"),
        *("ex ample.com/a", "example.com:port/a", "user@example.com/a", "../a", "a/../b"),
        *("http://", "https:///a", "example.com:99999999/a", "a:tag/b", "file:///etc/passwd"),
    ],
)
def test_nonsense_is_no_reference(text: str) -> None:
    with pytest.raises(ImageError, match="no image reference"):
        parse_reference(text)


@given(st.text())
def test_any_text_is_a_reference_or_not(text: str) -> None:
    try:
        parse_reference(text)
    except ImageError as error:
        assert "no image reference" in str(error)


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        (
            'Bearer realm="https://a/token?x=1,2",service="s",scope="repository:a:pull,push"',
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://a/token?x=1,2",
                        "service": "s",
                        "scope": "repository:a:pull,push",
                    },
                )
            ],
        ),
        (
            'Basic realm="a \\"quoted\\" one", Bearer  Realm = plain , service="x"',
            [
                Challenge("basic", {"realm": 'a "quoted" one'}),
                Challenge("bearer", {"realm": "plain", "service": "x"}),
            ],
        ),
        ("Negotiate", [Challenge("negotiate", {})]),
        (
            'Negotiate, Basic realm="x"',
            [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})],
        ),
        ("", []),
        ("= = =", []),
    ],
)
def test_challenges(header: str, challenges: list[Challenge]) -> None:
    assert list(parse_challenges(header)) == challenges


@given(st.text())
def test_any_text_is_a_challenge_or_not(header: str) -> None:
    list(parse_challenges(header))


_WORDS = [
    "config",
    "layers",
    "manifests",
    "digest",
    "size",
    "platform",
    "rootfs",
    "diff_ids",
    "Env",
    "Labels",
    "ExposedPorts",
    "User",
    "os",
    "architecture",
    "annotations",
    "Cmd",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_WORDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_document_is_read_or_refused(document: object) -> None:
    data = json.dumps(document).encode()
    for parse in (parse_manifest, parse_configuration):
        try:
            parse(data, "it")
        except ImageError as error:
            assert str(error).startswith("it ")


def test_ports_and_the_rest_are_read_with_care() -> None:
    document = {
        "config": {
            "ExposedPorts": {"0/tcp": {}, "65535": {}, "65536/tcp": {}, "9-7/tcp": {}, "x": {}},
            "Env": "A=b",
            "User": 5,
            "Cmd": None,
            "Entrypoint": "/bin/one",
            "Labels": [],
        },
        "rootfs": {"diff_ids": [DIGEST]},
    }
    configuration = parse_configuration(json.dumps(document).encode(), "it")
    assert configuration.config.exposed_ports == (65535,)
    assert configuration.config.env == {"A": "b"}
    assert configuration.config.user is None
    assert configuration.config.entrypoint == ("/bin/one",)
    assert configuration.platform is None
    assert configuration.diff_ids == (DIGEST,)
    configuration.require(Platform("linux", "amd64"), "it")


def test_kinds_are_told_apart() -> None:
    index = parse_manifest(b'{"manifests": []}', "it", "application/json")
    assert index == Index(())
    pointer = {"digest": DIGEST, "size": 1}
    manifest = parse_manifest(json.dumps({"config": pointer, "layers": [pointer]}).encode(), "it")
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].digest == DIGEST
    with pytest.raises(ImageError, match="more than 1024 layers"):
        parse_manifest(json.dumps({"config": pointer, "layers": [pointer] * 2000}).encode(), "it")

"""The vendor's own clients, unchanged, do all of their control plane against our host.

Every story is told twice, by the synchronous client and by the asynchronous one.
"""

from __future__ import annotations

import http.client
import inspect
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import pytest

from sandbox_anyio.local.launch import LocalHost

vendor = pytest.importorskip(
    "langsmith.sandbox", reason="the vendor's package is part of the extra 'test'"
)

generated = pytest.importorskip("langsmith")  # its generated client, with errors of its own

pytestmark = pytest.mark.anyio

SERVICE = Path(__file__).parents[1] / "drivers" / "_echo_service.py"
GIB = 1 << 30


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the vendor's asynchronous client knows no other


async def done(value: Any) -> Any:
    """What a call returns, whether or not it wants to be awaited."""
    return await value if inspect.isawaitable(value) else value


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def connected(kind: str, api_endpoint: str, **options: Any) -> AsyncIterator[Any]:
    """A client of the vendor's; one face for both kinds, if every call is `done`."""
    cls = vendor.SandboxClient if kind == "sync" else vendor.AsyncSandboxClient
    client = cls(api_endpoint=api_endpoint, **options)
    yield client
    await done(client.close() if kind == "sync" else client.aclose())


@pytest.fixture
async def client(kind: str, host: LocalHost) -> AsyncIterator[Any]:
    async with connected(kind, host.endpoint, api_key=host.api_key) as client:
        yield client


@pytest.fixture
async def sandbox(client: Any, kind: str) -> AsyncIterator[Any]:
    sandbox = await done(client.create_sandbox(name=f"control-{kind}"))
    yield sandbox
    await done(client.delete_sandbox(sandbox.id))


async def output(sandbox: Any, command: str) -> str:
    result = await done(sandbox.run(command))
    assert result.success, result
    return str(result.stdout)


# --- sandboxes ------------------------------------------------------------------------


async def test_a_sandbox_is_what_was_asked_for_wherever_one_looks(client: Any, kind: str) -> None:
    made = await done(
        client.create_sandbox(
            name=f"asked-{kind}",
            labels={"team": "red", "empty": ""},
            idle_ttl_seconds=120,
            delete_after_stop_seconds=0,
            vcpus=2,
            mem_bytes=5 * GIB,
            fs_capacity_bytes=3 * GIB,
            run_config=vendor.RunConfig(work_dir="/tmp", env_vars={"A": "made"}),
            access_delegation={"mode": "EXPLICIT", "permissions": ["sandboxes:read"]},
        )
    )
    try:
        assert (made.status, made.labels) == ("ready", {"team": "red", "empty": ""})
        assert (made.idle_ttl_seconds, made.delete_after_stop_seconds) == (120, 0)
        assert (made.vcpus, made.mem_bytes, made.fs_capacity_bytes) == (2, 5 * GIB, 3 * GIB)
        assert made.run_config == vendor.RunConfig(work_dir="/tmp", env_vars={"A": "made"})
        assert made.access_delegation == {"mode": "EXPLICIT", "permissions": ["sandboxes:read"]}
        assert made.preserve_memory_on_stop is False
        assert await output(made, "echo $PWD $A") == "/tmp made\n"
        by_name, by_id = [await done(client.get_sandbox(key)) for key in (made.name, made.id)]
        [listed] = [box for box in await done(client.list_sandboxes()) if box.id == made.id]
        assert made == by_name == by_id == listed
        status = await done(client.get_sandbox_status(made.name))
        assert status == vendor.ResourceStatus("ready", None)
    finally:
        await done(client.delete_sandbox(made.name))
    assert made.id not in [box.id for box in await done(client.list_sandboxes())]


async def test_what_is_changed_shows_and_the_rest_stays(client: Any, sandbox: Any) -> None:
    changed = await done(
        client.update_sandbox(
            sandbox.name,
            new_name=f"{sandbox.name}-new",
            idle_ttl_seconds=600,
            delete_after_stop_seconds=60,
            run_config={"env_vars": {"ADDED": "yes"}},
        )
    )
    assert (changed.name, changed.id) == (f"{sandbox.name}-new", sandbox.id)
    assert (changed.idle_ttl_seconds, changed.delete_after_stop_seconds) == (600, 60)
    assert changed.run_config.env_vars == {"ADDED": "yes"}
    assert await output(changed, "echo $ADDED") == "yes\n"
    with pytest.raises(vendor.ResourceNotFoundError):
        await done(client.get_sandbox(sandbox.name))
    untouched = await done(client.update_sandbox(changed.name))
    assert untouched == await done(client.get_sandbox(sandbox.id)) == changed


async def test_files_survive_a_stop_and_a_start(client: Any, sandbox: Any) -> None:
    await done(sandbox.write("/home/user/kept", "kept"))
    await done(sandbox.stop())
    stopped = await done(client.get_sandbox(sandbox.name))
    assert (sandbox.status, stopped.status) == ("stopped", "stopped")
    assert stopped.stopped_at is not None
    await done(client.stop_sandbox(sandbox.name))  # once more changes nothing
    started = await done(client.start_sandbox(sandbox.name))
    assert (started.status, started.stopped_at) == ("ready", None)
    assert await done(started.read("/home/user/kept")) == b"kept"
    await done(sandbox.start())  # of what runs already
    assert (sandbox.status, sandbox.dataplane_url) == ("ready", started.dataplane_url)


async def test_a_command_wakes_a_stopped_sandbox(client: Any, sandbox: Any) -> None:
    await done(client.stop_sandbox(sandbox.name))
    assert await output(sandbox, "echo awake") == "awake\n"
    assert (await done(client.get_sandbox_status(sandbox.name))).status == "ready"


async def test_a_sandbox_can_be_waited_for(client: Any, kind: str) -> None:
    early = await done(client.create_sandbox(name=f"early-{kind}", wait_for_ready=False))
    try:
        assert early.dataplane_url
        ready = await done(client.wait_for_sandbox(early.name, poll_interval=0.02))
        assert (ready.id, ready.status) == (early.id, "ready")
        assert ready.dataplane_url == early.dataplane_url
    finally:
        await done(client.delete_sandbox(early.name))


# --- snapshots ------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["running", "stopped"])
async def test_a_capture_becomes_sandboxes_by_every_reference(
    client: Any, kind: str, sandbox: Any, state: str
) -> None:
    await done(sandbox.write("/home/user/file", "captured"))
    if state == "stopped":
        await done(sandbox.stop())
    name = f"{kind}/from-{state}"
    snapshot = await done(
        client.capture_snapshot(
            sandbox.name, name, tag="v1", run_config={"env_vars": {"FROM": state}}
        )
    )
    try:
        assert (snapshot.status, snapshot.name, snapshot.tags) == ("ready", name, ["v1"])
        assert snapshot.source_sandbox_id == sandbox.id
        assert snapshot.fs_capacity_bytes == sandbox.fs_capacity_bytes
        after = (await done(client.get_sandbox_status(sandbox.name))).status
        assert after == {"running": "ready"}.get(state, state)
        for reference in (
            {"snapshot_id": snapshot.id},
            {"snapshot": snapshot.id},
            {"snapshot": f"{name}:v1"},
            {"snapshot_name": name},
        ):
            copy = await done(client.create_sandbox(**reference))
            assert copy.snapshot_id == snapshot.id
            assert await done(copy.read("/home/user/file")) == b"captured"
            assert await output(copy, "echo $FROM") == f"{state}\n"
            await done(copy.delete())
    finally:
        await done(client.delete_snapshot(snapshot.id))


async def test_references_tags_and_lists_agree(client: Any, kind: str, sandbox: Any) -> None:
    name = f"{kind}/tagged"
    untagged, first, second = [
        await done(client.capture_snapshot(sandbox.name, name, tag=tag))
        for tag in ("v1", "v1", "v2")
    ]  # the second capture takes the first one's tag
    latest = await done(sandbox.capture_snapshot(name))
    for reference, found in {
        untagged.id: untagged,
        f"{name}:v1": first,
        f"{name}:v2": second,
        f"{name}:latest": latest,
        name: latest,
    }.items():
        assert (await done(client.get_snapshot(reference))).id == found.id
    assert (await done(client.get_snapshot(untagged.id))).tags == []
    tags = {tag.tag: tag.snapshot_id for tag in await done(client.list_snapshot_tags(name))}
    assert tags == {"v1": first.id, "v2": second.id, "latest": latest.id}

    async def listed(**filters: Any) -> list[str]:
        snapshots = await done(client.list_snapshots(name_contains=name.upper(), **filters))
        return [snapshot.id for snapshot in snapshots]

    newest_first = [latest.id, second.id, first.id, untagged.id]
    assert await listed() == newest_first
    assert await listed(limit=3) + await listed(limit=3, offset=3) == newest_first
    assert await listed(offset=4) == []
    assert {*newest_first} < {each.id for each in await done(client.list_snapshots())}

    for reference in (untagged.id, f"{name}:v1", f"{name}:v2", latest.id):
        await done(client.delete_snapshot(reference))
    assert await listed() == []
    with pytest.raises(vendor.ResourceNotFoundError):
        await done(client.get_snapshot(first.id))
    with pytest.raises(vendor.ResourceNotFoundError):
        await done(client.list_snapshot_tags(name))


async def test_an_unknown_image_fails_with_its_reason(client: Any, kind: str) -> None:
    with pytest.raises(vendor.ResourceCreationError, match="oci:/no-such-image") as failure:
        await done(client.create_snapshot(f"{kind}/none", "oci:/no-such-image", GIB, tag="v1"))
    assert failure.value.resource_type == "snapshot"
    [failed] = await done(client.list_snapshots(name_contains=f"{kind}/none"))
    assert (failed.status, failed.tags) == ("failed", [])
    assert "oci:/no-such-image" in failed.status_message
    await done(client.delete_snapshot(failed.id))


# --- services and links ---------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes


def fetch(url: str) -> Answer:
    """What anybody gets who has the URL and nothing else."""
    try:
        response = urllib.request.urlopen(url)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return Answer(response.status, response.headers, response.read())


@asynccontextmanager
async def serving(sandbox: Any, port: int = 8000) -> AsyncIterator[None]:
    """The echo service listens inside, for the length of the block."""
    await done(sandbox.write("/home/user/service.py", SERVICE.read_bytes()))
    command = f"exec python3 /home/user/service.py {port}"
    handle = await done(sandbox.run(command, wait=False, close_input=False, timeout=0))
    first = anext(aiter(handle)) if hasattr(handle, "__aiter__") else next(iter(handle))
    assert (await done(first)).data == "listening\n"
    yield
    await done(handle.kill())


async def renewed(service: Any, name: str) -> Any:
    """A property of a service's URL, its token renewed if need be."""
    if hasattr(service, "get_token"):
        return await getattr(service, f"get_{name}")()
    return getattr(service, name)


async def test_a_service_is_reached_with_its_token(client: Any, sandbox: Any) -> None:
    async with serving(sandbox):
        service = await done(client.service(sandbox.name, 8000))
        page = await done(service.get("/page"))
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html")
        answer = await done(service.post("/a%20b?q=1", content=b"hi", headers={"X-Own": "1"}))
        said = answer.json()
        assert (said["method"], said["target"], said["body"]) == ("POST", "/a%20b?q=1", "aGk=")
        headers = dict(said["headers"])
        assert headers["x-own"] == "1"
        assert "x-langsmith-sandbox-service-token" not in headers
        assert (await done(service.get("/fail"))).status_code == 503
        assert fetch(await renewed(service, "service_url")).status == 401
    nowhere = await done(sandbox.service(9, expires_in_seconds=60))
    assert (await done(nowhere.get("/"))).status_code == 502


async def test_a_short_token_is_renewed_at_every_use(client: Any, kind: str) -> None:
    sandbox = await done(client.create_sandbox(name=f"short-{kind}"))
    async with serving(sandbox):
        short = await done(sandbox.service(8000, expires_in_seconds=30))  # its margin
        long = await done(sandbox.service(8000, embed_origins=["https://site.example"]))
        assert (await done(short.get("/page"))).status_code == 200
    assert long.embed_origins == ["https://site.example"]
    assert "#token=" in await renewed(long, "embed_url")
    await done(sandbox.delete())
    await renewed(long, "token")
    with pytest.raises(vendor.ResourceNotFoundError):
        await renewed(short, "token")


async def test_a_login_grant_ends_the_time_of_tokens(client: Any, sandbox: Any) -> None:
    async with serving(sandbox):
        token = await done(client.service(sandbox.name, 8000))
        login = await done(client.service(sandbox.name, 8000, access="workspace"))
        assert isinstance(login, vendor.ServiceLoginURL)
        assert (login.access, login.embed_origins) == ("workspace", [])
        assert (await done(token.get("/"))).status_code == 401
        with pytest.raises(vendor.SandboxClientError, match="login grant"):
            await done(client.service(sandbox.name, 8000))
        entered = browse(login.url)
        assert (entered.status, entered.headers["location"]) == (302, "/")
        cookie = entered.headers["set-cookie"].partition(";")[0]
        page = browse(urljoin(login.url, "/"), Cookie=cookie)
        assert "x-langsmith-user-id" in dict(json.loads(page.body)["headers"])
        again = await done(
            client.service(
                sandbox.name, 8000, access="restricted", embed_origins=["http://localhost:3000"]
            )
        )
        assert (again.access, again.embed_origins) == ("restricted", ["http://localhost:3000"])


def browse(url: str, **headers: str) -> Answer:
    """Visit a page as browsers do: they find all names under `localhost` on their own machine."""
    place = urlsplit(url)
    assert place.hostname is not None and place.hostname.endswith(".localhost")
    connection = http.client.HTTPConnection("127.0.0.1", place.port)
    target = f"{place.path}?{place.query}".rstrip("?")
    connection.request("GET", target, headers={"Host": place.netloc, **headers})
    with connection.getresponse() as response:
        answer = Answer(response.status, response.headers, response.read())
    connection.close()
    return answer


async def test_a_download_link_needs_no_key(client: Any, sandbox: Any) -> None:
    content = bytes(range(256)) * 100
    await done(sandbox.write("/home/user/data.bin", content))
    link = await done(
        client.generate_download_url(
            sandbox.name,
            "/home/user/data.bin",
            expires_in_seconds=3600,
            content_type="image/png",
            content_disposition="inline",
        )
    )
    assert link.expires_at is not None
    answer = fetch(link.download_url)
    assert (answer.status, answer.body) == (200, content)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"].startswith("inline")
    for_ever = await done(sandbox.generate_download_url("/home/user/data.bin"))
    assert for_ever.expires_at is None
    await done(sandbox.stop())
    assert fetch(for_ever.download_url).body == content  # and wakes it
    assert fetch(for_ever.download_url.replace(for_ever.token, "forged")).status == 404


# --- registries -----------------------------------------------------------------------


async def test_registries_are_kept_without_their_password(client: Any, kind: str) -> None:
    registries, name = client.registries, f"registry-{kind}"
    made = await done(
        registries.create(
            name=name, url="https://registry.example", username="me", password="secret-word"
        )
    )
    assert "secret-word" not in made.to_json()
    assert (await done(registries.retrieve(name))) == made
    changed = await done(
        registries.update(name, body_name=f"{name}-new", url="https://other.example")
    )
    assert (changed.id, changed.name) == (made.id, f"{name}-new")
    assert changed.url == "https://other.example"
    page = await done(registries.list(name_contains=name))
    assert page.items == page.registries == [changed]
    assert page.next_cursor is None
    await done(registries.delete(changed.name))
    with pytest.raises(generated.NotFoundError):
        await done(registries.retrieve(changed.name))


# --- the generated client, which has what the other two leave out ---------------------


@pytest.fixture
async def resources(kind: str, host: LocalHost) -> AsyncIterator[Any]:
    cls = generated.Langsmith if kind == "sync" else generated.AsyncLangsmith
    client = cls(base_url=host.endpoint, api_key=host.api_key)
    yield client.sandboxes
    await done(client.close())


async def every(pages: Any) -> list[Any]:
    """What is on all pages, however they are turned."""
    return [each async for each in pages] if hasattr(pages, "__aiter__") else [*pages]


async def test_lists_are_filtered_sorted_and_turned_by_cursor(resources: Any, kind: str) -> None:
    boxes = resources.boxes
    made = [f"listed-{kind}-{number}" for number in range(5)]
    for number, name in enumerate(made):
        labels = {"parity": str(number % 2), **({"last": ""} if number == 4 else {})}
        await done(boxes.create(name=name, labels=labels, cpu_millicores=500))

    async def names(**query: Any) -> list[str]:
        found = boxes.list(name_contains=f"listed-{kind}", **query)
        return [box.name for box in await every(found)]

    assert await names(page_size=2) == made[::-1]
    assert await names(sort_by="name", sort_order="asc", page_size=5) == made
    assert await names(label=["parity=0"], page_size=1) == [made[4], made[2], made[0]]
    assert await names(label=["parity=0", "last"]) == [made[4]]
    assert await names(status="stopped") == []
    assert (await done(boxes.retrieve(made[0]))).cpu_millicores == 500
    dropped = await done(boxes.batch_delete(names=[*made, "none"]))
    assert dropped.deleted == made
    assert [each.name for each in dropped.skipped] == ["none"]
    assert await names() == []


async def test_grants_are_listed_and_taken_back(resources: Any, sandbox: Any) -> None:
    boxes, name = resources.boxes, sandbox.name
    await done(boxes.generate_service_url(name, port=80, access="workspace"))
    await done(boxes.generate_service_url(name, port=81, expires_in_seconds=60))
    grants = await every(boxes.list_service_urls(name))
    assert [(grant.port, grant.access) for grant in grants] == [(80, "workspace"), (81, "token")]
    off = await done(boxes.generate_service_url(name, port=80, access="off"))
    assert off.token
    await done(boxes.delete_service_url(name, port=80))
    assert [grant.port for grant in await every(boxes.list_service_urls(name))] == [81]
    await done(boxes.delete_service_url(name))
    assert await every(boxes.list_service_urls(name)) == []


async def test_captures_keep_what_is_said_of_them(resources: Any, sandbox: Any, kind: str) -> None:
    boxes, snapshots, name = resources.boxes, resources.snapshots, f"{kind}/described"
    await done(boxes.stop(sandbox.name))
    await done(boxes.start(sandbox.name))  # a request without a body
    made = await done(
        boxes.create_snapshot(
            sandbox.name, body_name=name, description="what for", labels={"a": "b"}
        )
    )
    kept = await done(snapshots.retrieve(name))
    assert (kept.id, kept.description, kept.labels) == (made.id, "what for", {"a": "b"})
    heir = await done(boxes.create(snapshot=name, labels={"c": "d"}))
    assert heir.labels == {"a": "b", "c": "d"}
    await done(boxes.delete(heir.id))
    tags = (await done(snapshots.retrieve_by_name(name))).tags
    assert [(tag.tag, tag.snapshot_id) for tag in tags] == [("latest", made.id)]
    everything = [each.id for each in await every(snapshots.list(page_size=1))]
    assert made.id in everything
    assert len(everything) == len({*everything}) > 1
    await done(snapshots.delete(name))
    with pytest.raises(generated.UnprocessableEntityError):
        await done(boxes.create_snapshot(sandbox.name, body_name=name, include_memory=True))


async def test_nothing_costs_anything(resources: Any) -> None:
    november = {"start_time": "2026-11-01T00:00:00Z", "end_time": "2026-11-02T00:00:00Z"}
    assert await every(resources.list_usage_costs(**november)) == []


# --- what goes wrong ------------------------------------------------------------------

NO_BOX = vendor.ResourceNotFoundError, {"resource_type": "sandbox"}
NO_SNAPSHOT = vendor.ResourceNotFoundError, {"resource_type": "snapshot"}
NO_FILE = vendor.ResourceNotFoundError, {"resource_type": "file"}


def invalid(field: str) -> Any:
    return vendor.ValidationError, {"field": field}


def failed(operation: str | None, error_type: str) -> Any:
    return vendor.SandboxOperationError, {"operation": operation, "error_type": error_type}


# The call (of a client and a sandbox), the error, what it says of itself.
MISTAKES: dict[str, tuple[Callable[[Any, Any], Any], tuple[type[Exception], dict[str, Any]]]] = {
    "get nothing": (lambda c, s: c.get_sandbox("none"), NO_BOX),
    "delete nothing": (lambda c, s: c.delete_sandbox("none"), NO_BOX),
    "ask after nothing": (lambda c, s: c.get_sandbox_status("none"), NO_BOX),
    "wait for nothing": (lambda c, s: c.wait_for_sandbox("none"), NO_BOX),
    "start nothing": (lambda c, s: c.start_sandbox("none"), NO_BOX),
    "stop nothing": (lambda c, s: c.stop_sandbox("none"), NO_BOX),
    "change nothing": (lambda c, s: c.update_sandbox("none", new_name="a"), NO_BOX),
    "a path as name": (lambda c, s: c.get_sandbox("../boxes"), NO_BOX),
    "serve nothing": (lambda c, s: c.service("none", 80), NO_BOX),
    "link to nothing": (lambda c, s: c.generate_download_url("none", "/x"), NO_BOX),
    "capture nothing": (lambda c, s: c.capture_snapshot("none", "x"), NO_BOX),
    "no such snapshot": (lambda c, s: c.get_snapshot("none:v1"), NO_SNAPSHOT),
    "delete no snapshot": (lambda c, s: c.delete_snapshot("none"), NO_SNAPSHOT),
    "wait for no snapshot": (lambda c, s: c.wait_for_snapshot("none"), NO_SNAPSHOT),
    "tags of nothing": (lambda c, s: c.list_snapshot_tags("none"), NO_SNAPSHOT),
    "a name that is taken": (
        lambda c, s: c.create_sandbox(name=s.name),
        (vendor.SandboxClientError, {}),
    ),
    "a name that cannot be": (lambda c, s: c.create_sandbox(name="A b"), invalid("name")),
    "no CPU": (lambda c, s: c.create_sandbox(vcpus=0), invalid("vcpus")),
    "much memory": (
        lambda c, s: c.create_sandbox(vcpus=1, mem_bytes=7 * GIB),
        invalid("mem_bytes"),
    ),
    "little disk": (
        lambda c, s: c.create_sandbox(fs_capacity_bytes=1),
        invalid("fs_capacity_bytes"),
    ),
    "a relative directory": (
        lambda c, s: c.update_sandbox(s.name, run_config={"work_dir": "here"}),
        invalid("run_config"),
    ),
    "from no snapshot": (
        lambda c, s: c.create_sandbox(snapshot="none:v1"),
        (vendor.SandboxClientError, {}),
    ),
    "no time to get ready": (
        lambda c, s: c.create_sandbox(timeout=0),
        (vendor.ResourceTimeoutError, {"resource_type": "sandbox", "last_status": None}),
    ),
    "a snapshot's name": (lambda c, s: c.capture_snapshot(s.name, "X Y"), invalid("name")),
    "a snapshot's tag": (
        lambda c, s: c.capture_snapshot(s.name, "x", tag="-"),
        invalid("tag"),
    ),
    "the system's names": (
        lambda c, s: c.capture_snapshot(s.name, "system/x"),
        (vendor.SandboxAuthenticationError, {}),
    ),
    "the system's snapshot": (
        lambda c, s: c.delete_snapshot("system/default:latest"),
        (vendor.SandboxAuthenticationError, {}),
    ),
    "tags of a tag": (
        lambda c, s: c.list_snapshot_tags("system/default:latest"),
        (vendor.SandboxClientError, {}),
    ),
    "a limit out of range": (
        lambda c, s: c.list_snapshots(limit=501),
        (vendor.SandboxClientError, {}),
    ),
    "a port out of range": (lambda c, s: c.service(s.name, 65536), invalid("port")),
    "an origin with a path": (
        lambda c, s: c.service(s.name, 80, embed_origins=["https://a.example/b"]),
        invalid("embed_origins"),
    ),
    "read nothing": (lambda c, s: s.read("/nowhere"), NO_FILE),
    "read a directory": (lambda c, s: s.read("/tmp"), failed("read", "ReadError")),
    "write a directory": (lambda c, s: s.write("/tmp", ""), failed("write", "WriteError")),
    "write without permission": (
        lambda c, s: s.write("/proc/version", ""),
        failed(None, "PermissionDenied"),
    ),
    "no such shell": (
        lambda c, s: s.run("true", shell="/no/shell"),
        failed("command", "CommandError"),
    ),
}


@pytest.fixture(scope="module")
def bystander(host: LocalHost) -> Iterator[str]:
    """The name of a sandbox that mistakes do not change."""
    with vendor.SandboxClient(api_endpoint=host.endpoint, api_key=host.api_key) as client:
        name = client.create_sandbox(name="bystander").name
        yield name
        client.delete_sandbox(name)


@pytest.mark.parametrize("what", MISTAKES)
async def test_a_mistake_has_the_vendors_name(client: Any, bystander: str, what: str) -> None:
    sandbox = await done(client.get_sandbox(bystander))
    call, (error, attributes) = MISTAKES[what]
    with pytest.raises(error) as raised:
        await done(call(client, sandbox))
    assert type(raised.value) is error
    assert {name: getattr(raised.value, name) for name in attributes} == attributes
    assert str(raised.value)


async def test_a_name_that_is_taken_conflicts(client: Any, kind: str, sandbox: Any) -> None:
    other = await done(client.create_sandbox(name=f"other-{kind}"))
    with pytest.raises(vendor.ResourceNameConflictError) as conflict:
        await done(client.update_sandbox(other.name, new_name=sandbox.name))
    assert conflict.value.resource_type == "sandbox"
    await done(other.delete())
    assert (await done(client.create_sandbox(name=other.name))).id != other.id  # free again
    await done(client.delete_sandbox(other.name))


async def test_waiting_for_what_does_not_start_says_how_it_stood(client: Any, sandbox: Any) -> None:
    await done(sandbox.stop())
    with pytest.raises(vendor.ResourceTimeoutError) as late:
        await done(client.wait_for_sandbox(sandbox.name, timeout=0))
    assert late.value.last_status == "stopped"


async def test_what_was_deleted_is_gone_from_the_data_plane(client: Any) -> None:
    sandbox = await done(client.create_sandbox())
    await done(sandbox.delete())
    with pytest.raises(vendor.ResourceNotFoundError):
        await done(sandbox.read("/etc/hostname"))
    with pytest.raises(vendor.SandboxConnectionError, match="410"):
        await done(sandbox.run("true"))


async def test_an_unknown_command_cannot_be_found_again(sandbox: Any) -> None:
    with pytest.raises(vendor.SandboxOperationError) as unknown:
        await done((await done(sandbox.reconnect("unknown"))).result)
    assert (unknown.value.operation, unknown.value.error_type) == ("reconnect", "CommandNotFound")


async def test_a_wrong_key_opens_nothing(host: LocalHost, kind: str) -> None:
    async with connected(kind, host.endpoint, api_key="wrong") as stranger:
        for call in (stranger.list_sandboxes, stranger.list_snapshots, stranger.create_sandbox):
            with pytest.raises(vendor.SandboxAuthenticationError):
                await done(call())
        with pytest.raises(generated.AuthenticationError):
            await done(stranger.registries.list())


async def test_a_wrong_address_is_told_from_an_empty_list(host: LocalHost, kind: str) -> None:
    async with connected(kind, f"{host.endpoint}/elsewhere", api_key=host.api_key) as lost:
        for call in (lost.list_sandboxes, lost.list_snapshots):
            with pytest.raises(vendor.SandboxAPIError, match="elsewhere"):
                await done(call())


async def test_no_host_at_all_is_a_connection_error(kind: str) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        async with connected(kind, nowhere, api_key="key", max_retries=0) as client:
            with pytest.raises(vendor.SandboxConnectionError):
                await done(client.list_sandboxes())

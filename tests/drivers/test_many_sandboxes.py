"""A thousand sandboxes, listed while others come and go."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from sandbox_anyio import AsyncSandboxClient
from sandbox_anyio.local.launch import LocalHost
from sandbox_anyio.local.store import Store
from sandbox_proto.host.boxes import Box, timestamp
from sandbox_proto.host.state import box_record

from ._own_host import own_host

pytestmark = pytest.mark.anyio
MANY = 1000
PAGE = 50


@pytest.fixture(scope="module")
def crowded_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHost]:
    """A host that already has `MANY` stopped sandboxes, one made every second."""
    state = tmp_path_factory.mktemp("crowded")
    began = time.time() - MANY
    with contextlib.closing(Store(state / "host.sqlite")) as store:
        store.save([box_record(_stopped(number, began + number)) for number in range(MANY)])
    with own_host(state_dir=str(state)) as host:
        yield host.local


@pytest.fixture
async def crowded(crowded_host: LocalHost, anyio_backend: str) -> AsyncIterator[AsyncSandboxClient]:
    async with AsyncSandboxClient(
        api_endpoint=crowded_host.endpoint, api_key=crowded_host.api_key, trust_env=False
    ) as client:
        yield client


def _stopped(number: int, created: float) -> Box:
    stamp = timestamp(created)
    return Box(
        id=str(uuid.uuid4()),
        name=f"box-{number:04}",
        created_at=stamp,
        updated_at=stamp,
        status="stopped",
        stopped_at=stamp,
    )


@pytest.mark.parametrize(
    ("sorting", "order"),
    [({}, range(MANY)[::-1]), ({"sort_by": "name", "sort_order": "asc"}, range(MANY))],
    ids=["newest first", "by name"],
)
async def test_every_one_is_found_once_and_in_order_while_others_come_and_go(
    crowded: AsyncSandboxClient, sorting: dict[str, str], order: range
) -> None:
    others: list[str] = []
    found: list[str] = []
    async for sandbox in crowded.iter_sandboxes(page_size=PAGE, **sorting):  # type: ignore[arg-type]
        found.append(sandbox.name)
        if len(found) % PAGE == 10:  # in the middle of every page
            # Before the first of them by name, behind the newest by age.
            made = await crowded.create_sandbox(name=f"a-{len(found)}", wait_for_ready=False)
            if others:
                await crowded.delete_sandbox(others[-1])
            others.append(made.name)
    await crowded.delete_sandbox(others[-1])
    assert len(others) >= MANY / PAGE
    assert len(found) == len(set(found))
    assert [name for name in found if name.startswith("box-")] == [f"box-{n:04}" for n in order]


async def test_the_plain_list_has_them_all(crowded: AsyncSandboxClient) -> None:
    listed = await crowded.list_sandboxes()
    assert [sandbox.name for sandbox in listed] == [f"box-{n:04}" for n in reversed(range(MANY))]

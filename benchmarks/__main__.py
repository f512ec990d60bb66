"""``python -m benchmarks``: ours against the vendor's client on the embedded host.

Both clients run in this process, in turns, so that they meet the same machine. The host is
a process of its own. Medians and ratios count; absolute times on a busy machine do not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from langsmith.sandbox import AsyncSandboxClient as VendorClient

from sandbox_anyio import AsyncSandboxClient, open_local_host

Call = Callable[[], Awaitable[object]]


async def _median(call: Call, count: int) -> tuple[float, float]:
    """Median wall time and mean CPU time of a call, in milliseconds."""
    walls = []
    cpu = time.process_time()
    for _ in range(count):
        began = time.perf_counter()
        await call()
        walls.append(time.perf_counter() - began)
    cpu = (time.process_time() - cpu) / count
    return statistics.median(walls) * 1000, cpu * 1000


async def _compare(name: str, ours: Call, vendors: Call, *, rounds: int, count: int) -> None:
    await ours()
    await vendors()
    pairs = [(*await _median(ours, count), *await _median(vendors, count)) for _ in range(rounds)]
    wall, cpu, vendor_wall, vendor_cpu = (
        statistics.median(column) for column in zip(*pairs, strict=True)
    )
    print(
        f"{name:<22} {wall:8.2f} {vendor_wall:8.2f} {vendor_wall / wall:7.1f}x"
        f" {cpu:9.2f} {vendor_cpu:8.2f} {vendor_cpu / cpu:7.1f}x"
    )


async def main(size: float) -> None:
    rounds, count = max(int(5 * size), 1), max(int(40 * size), 2)
    content = bytes(4 * 1024 * 1024)
    async with open_local_host() as host:
        settings = {"api_endpoint": host.endpoint, "api_key": host.api_key}
        async with AsyncSandboxClient(**settings) as client, VendorClient(**settings) as vendor:
            ours = await client.create_sandbox()
            theirs = await vendor.get_sandbox(ours.name)
            await ours.write("big", content)
            print(
                f"{'':<22} {'wall ms':>8} {'vendor':>8} {'ratio':>8} "
                f"{'CPU ms':>9} {'vendor':>8} {'ratio':>8}"
            )
            cases: list[tuple[str, Call, Call, int]] = [
                (
                    "status",
                    lambda: client.get_sandbox_status(ours.name),
                    lambda: vendor.get_sandbox_status(ours.name),
                    count,
                ),
                ("run('true')", lambda: ours.run("true"), lambda: theirs.run("true"), count),
                (
                    "run, 4 MB of output",
                    lambda: ours.run("head -c 4000000 /dev/zero | tr '\\0' x"),
                    lambda: theirs.run("head -c 4000000 /dev/zero | tr '\\0' x"),
                    max(count // 10, 2),
                ),
                (
                    "read 4 MiB",
                    lambda: ours.read("big"),
                    lambda: theirs.read("big"),
                    max(count // 4, 2),
                ),
                (
                    "write 4 MiB",
                    lambda: ours.write("big", content),
                    lambda: theirs.write("big", content),
                    max(count // 4, 2),
                ),
            ]
            for name, our_call, vendor_call, times in cases:
                await _compare(name, our_call, vendor_call, rounds=rounds, count=times)
            await ours.delete()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="how much to measure (default 1)")
    asyncio.run(main(parser.parse_args().size))

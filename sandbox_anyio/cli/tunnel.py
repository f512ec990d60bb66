"""``sandbox tunnel``: a port of this machine that leads to one in a sandbox."""

from __future__ import annotations

import argparse
import sys

import anyio

from sandbox_proto.errors import SandboxClientError
from sandbox_proto.wire.tunnel import MAX_PORT

from ..client import AsyncSandboxClient
from ..tunnel import LocalPort

_EXAMPLES = """\
examples:
  sandbox tunnel my-box 5432          127.0.0.1:5432 leads to port 5432 of my-box
  sandbox tunnel my-box 80:8080       127.0.0.1:8080 leads to port 80
  sandbox tunnel my-box 8000:0        a free port, which is printed

It lasts until Ctrl-C. A lost session is opened again. Connections that the sandbox refuses
are reset, and why is said on standard error."""


def add_tunnel(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand to the parser."""
    tunnel = commands.add_parser(
        "tunnel",
        help="connect a port of this machine with one in a sandbox",
        description="Listens on 127.0.0.1 and ::1, and connects whoever comes with a port "
        "inside a sandbox.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tunnel.add_argument("name", metavar="NAME", help="name or id of a sandbox")
    tunnel.add_argument(
        "ports",
        type=_ports,
        metavar="PORT[:LOCAL]",
        help="the port in the sandbox, and the one here (default: the same; 0: a free one)",
    )


async def serve_tunnel(client: AsyncSandboxClient, options: argparse.Namespace) -> int:
    """Serve until cancelled."""
    sandbox = await client.get_sandbox(options.name)
    remote_port, local_port = options.ports
    async with sandbox.tunnel(remote_port, local_port=local_port, on_error=_tell) as tunnel:
        print(f"127.0.0.1:{tunnel.local_port} -> {sandbox.name}:{remote_port}", flush=True)
        await anyio.sleep_forever()
    return 0


def _tell(error: SandboxClientError) -> None:
    print(f"sandbox: {error}", file=sys.stderr, flush=True)


def _ports(text: str) -> tuple[int, LocalPort]:
    remote, separator, local = text.partition(":")
    remote_port = _port(remote, least=1)
    if not separator:
        return remote_port, remote_port
    return remote_port, _port(local, least=0) or "any"


def _port(text: str, *, least: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= MAX_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port ({least} to {MAX_PORT})")
    return int(text)

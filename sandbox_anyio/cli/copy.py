"""``sandbox cp``: files and directories, between this machine and a sandbox."""

from __future__ import annotations

import argparse
import os
import posixpath
import shlex
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

from sandbox_proto.errors import ResourceNotFoundError
from sandbox_proto.plans.copying import CopyPlace, copy_places, place_inside

from ..client import AsyncSandboxClient
from ..directory_report import DirectoryReport
from ..sandbox import AsyncSandbox
from ..sources import Progress

_EXAMPLES = """\
examples:
  sandbox cp notes.txt my-box:/home/user/notes.txt
  sandbox cp my-box:/var/log/app.log .
  sandbox cp --ignore .git --ignore __pycache__ ./project my-box:/home/user
  sandbox cp my-box:results ./results
  tar -c . | sandbox cp - my-box:/tmp/all.tar
  sandbox cp my-box:out.csv - | head

A path in a sandbox follows its name and a colon; a relative one begins at its home. For a
local name with a colon in it write ./a:b. A directory is copied with all that is in it: into
TO, if that is a directory already or ends with a slash, else as TO; SOURCE/. is only what is
in it. Links that lead outside of a copied directory are not brought here."""

_READ_BYTES = 256 * 1024


def add_copy(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommand, its options and its help."""
    copying = commands.add_parser(
        "cp",
        help="copy files and directories into and out of a sandbox",
        description="Copies SOURCE to TO; one of them is NAME:PATH, in a sandbox. "
        "`-` is standard input or output.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    copying.add_argument("source", metavar="SOURCE", help="PATH, NAME:PATH, or -")
    copying.add_argument("to", metavar="TO", help="PATH, NAME:PATH, or -")
    copying.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave this out of a directory (*.pyc, build/, docs/**/*.tmp); may be repeated",
    )
    copying.add_argument(
        "--links",
        choices=("keep", "follow", "skip"),
        default="keep",
        help="symbolic links in a directory: keep them (default), copy what they lead to, or "
        "leave them out",
    )
    copying.add_argument("--quiet", action="store_true", help="show no progress")


async def copy(client: AsyncSandboxClient, options: argparse.Namespace) -> int:
    """Carry it out. Returns the exit status."""
    source, to = copy_places(options.source, options.to)
    sandbox = await client.get_sandbox(str(source.sandbox or to.sandbox))
    quiet = options.quiet or not sys.stderr.isatty()
    with _bar(_title(source, to), quiet) as progress:
        if to.sandbox is not None:
            report = await _upload(sandbox, source, to, options, progress)
        else:
            report = await _download(sandbox, source, to, options, progress)
    for path, reason in (report.skipped if report is not None else {}).items():
        print(f"sandbox: {path!r} was left out: {reason}", file=sys.stderr)
    return 0


def _title(source: CopyPlace, to: CopyPlace) -> str:
    """The name of what is copied, or of what it becomes, as far as it fits."""
    path = to.path if source.is_stream else source.path
    return posixpath.basename(path.rstrip("/"))[:40]


async def _upload(
    sandbox: AsyncSandbox,
    source: CopyPlace,
    to: CopyPlace,
    options: argparse.Namespace,
    progress: Progress | None,
) -> DirectoryReport | None:
    if source.is_stream:
        await sandbox.upload(_standard_input(), to.path, progress)
        return None
    target = to.path
    if to.wants_directory or await _is_directory(sandbox, to.path):
        target = place_inside(to, _own_name(source.path), source)
    if _is_local_directory(source.path):
        return await sandbox.upload_dir(
            source.path, target, ignore=options.ignore, symlinks=options.links, progress=progress
        )
    await sandbox.upload(source.path, target, progress)
    if os.access(source.path, os.X_OK):  # what arrives is an ordinary file
        place = shlex.quote(target if target.startswith("/") else f"./{target}")
        await sandbox.run(f"chmod +x -- {place}", shell="/bin/sh", check=True)
    return None


async def _download(
    sandbox: AsyncSandbox,
    source: CopyPlace,
    to: CopyPlace,
    options: argparse.Namespace,
    progress: Progress | None,
) -> DirectoryReport | None:
    if to.is_stream:
        async with sandbox.open_read(source.path) as file:
            async for chunk in file:
                _write_all(sys.stdout.fileno(), chunk)
        return None
    target = to.path
    if to.wants_directory or _is_local_directory(to.path):
        target = place_inside(to, posixpath.basename(source.path.rstrip("/")), source)
    if await _is_directory(sandbox, source.path):
        return await sandbox.download_dir(
            source.path, target, ignore=options.ignore, symlinks=options.links, progress=progress
        )
    _make_parents(target)
    await sandbox.download(source.path, target, progress)
    return None


async def _is_directory(sandbox: AsyncSandbox, path: str) -> bool:
    """Whether there is a directory of this path in the sandbox."""
    if not path.startswith("/"):  # searches begin at absolute paths only
        test = f"[ -d {shlex.quote(f'./{path}')} ]"
        return (await sandbox.run(test, shell="/bin/sh")).success
    try:
        await sandbox.ls(path, limit=1)
    except ResourceNotFoundError:
        return False
    return True


def _is_local_directory(path: str) -> bool:
    return Path(path).is_dir()


def _own_name(path: str) -> str:
    """The last part of a local path, also of `.` and `..`."""
    return Path(path).resolve().name if path.rstrip("/").endswith("..") else Path(path).name


def _make_parents(path: str) -> None:
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)


async def _standard_input() -> AsyncIterator[bytes]:
    descriptor = sys.stdin.fileno()
    waits = not stat.S_ISREG(os.fstat(descriptor).st_mode)
    while True:
        if waits:
            try:
                await anyio.wait_readable(descriptor)
            except PermissionError:  # /dev/null and the like are always ready
                waits = False
        data = os.read(descriptor, _READ_BYTES)
        if not data:
            return
        yield data


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _bar(title: str, quiet: bool) -> Iterator[Progress | None]:
    """A progress bar on standard error, if somebody looks and its library is there."""
    if quiet:
        yield None
        return
    try:
        from rich import progress as bars
        from rich.console import Console
        from rich.markup import escape
    except ImportError:  # the extra `cli` brings it
        yield None
        return
    shown = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(binary_units=True),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with shown:
        bar = shown.add_task(escape(title), total=None)
        yield lambda done, total: shown.update(bar, completed=done, total=total)

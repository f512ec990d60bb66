"""Directories as archives: what is said to the sandbox's shell, and what an archive may do here.

A directory travels as one tar file: uploaded beside its place and unpacked there by the
sandbox's ``tar``, or packed by it and downloaded. What is unpacked on this side was written
by programs that nobody trusts: `entry_path` and `link_is_inside` say what of it is harmless.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable

import attrs

from ..errors import SandboxOperationError
from ..wire.command_models import ExecutionResult
from ..wire.ids import Entropy
from ..wire.patterns import PathPattern, name_pattern

PREFIX = ".sandbox-archive-"
"""How the names of our archives in sandboxes begin."""

_NO_DIRECTORY = 66
_NO_SUCH_PROGRAM = 127
# What GNU tar says of a file that was written to meanwhile: it is there, as it was then.
_HARMLESS = ("file changed as we read it", "File removed before we read it", "socket ignored")


def archive_name(entropy: Entropy) -> str:
    """A name for an archive, or what holds it, as nobody else has it."""
    return f"{PREFIX}{entropy(12).hex()}"


def holder_beside(directory: str, entropy: Entropy) -> str:
    """Where to upload the archive of a directory: on the same disk, outside of it.

    It gets a directory of its own. When that is removed, an upload that was cancelled, and
    that the server may yet carry to its end, has no place to end in.
    """
    parent = posixpath.dirname(directory.rstrip("/") or "/")
    return posixpath.join(parent, archive_name(entropy))


def archive_in(holder: str) -> str:
    """The archive's own path."""
    return f"{holder}/archive.tar"


def unpack_command(holder: str, directory: str) -> str:
    """For /bin/sh: unpack an archive, and remove it with what holds it."""
    archive, target = _operand(archive_in(holder)), _operand(directory)
    return (
        f"mkdir -p -- {target} && LC_ALL=C tar -x -f {archive} -C {target}; "
        f"status=$?; {remove_command(holder)}; exit $status"
    )


def pack_command(directory: str, name: str, *, follow_links: bool) -> str:
    """For /bin/sh: pack what is in a directory, and print where the archive is.

    :param name: that of the archive.
    """
    options = "-c -h" if follow_links else "-c"
    return (
        f"cd -- {_operand(directory)} || exit {_NO_DIRECTORY}; "
        'for place in "$HOME" /var/tmp /tmp; do '
        '[ -d "$place" ] && [ -w "$place" ] && break; done; '
        f'archive=$(cd -- "$place" && pwd)/{name}; printf %s "$archive"; '
        f'LC_ALL=C tar {options} -f "$archive" . && exit; '
        # A status of 1 is GNU tar's for what changed meanwhile; the archive is whole.
        'status=$?; [ $status = 1 ] || rm -f -- "$archive"; exit $status'
    )


def remove_command(archive: str) -> str:
    """For /bin/sh: remove an archive, or what holds one, that may be there.

    :param archive: its path.
    """
    return f"rm -rf -- {_operand(archive)}"


def remove_packed_command(name: str) -> str:
    """For /bin/sh: remove an archive, wherever it was to be packed.

    :param name: that of the archive.
    """
    return f'rm -f -- "$HOME"/{name} /var/tmp/{name} /tmp/{name}'


def _operand(path: str) -> str:
    # A name that begins with a dash would be an option to some programs.
    return shlex.quote(path if path.startswith("/") else f"./{path}")


def check_unpacked(result: ExecutionResult, directory: str) -> None:
    """Whether an archive was unpacked.

    :raises SandboxOperationError: it was not.
    """
    if not result.success:
        raise _failed("write", f"{directory!r} could not be unpacked in the sandbox", result)


def packed_archive(result: ExecutionResult, directory: str) -> str:
    """Where the archive is that was packed.

    :raises SandboxOperationError: there is none.
    """
    if result.exit_code == _NO_DIRECTORY:
        message = f"there is no directory {directory!r} in the sandbox that can be entered"
        raise SandboxOperationError(message, "read")
    complaints = [
        line for line in result.stderr.splitlines() if not any(text in line for text in _HARMLESS)
    ]
    if result.exit_code > 1 or (result.exit_code == 1 and complaints):
        raise _failed("read", f"{directory!r} could not be packed in the sandbox", result)
    return result.stdout


def _failed(operation: str, what: str, result: ExecutionResult) -> SandboxOperationError:
    if result.exit_code == _NO_SUCH_PROGRAM:
        return SandboxOperationError(f"{what}: it has no program `tar`", operation)
    reason = result.stderr.strip()[-1000:] or "no reason was given"
    return SandboxOperationError(f"{what} (exit code {result.exit_code}): {reason}", operation)


# --- which entries --------------------------------------------------------------------


@attrs.frozen
class IgnoreRules:
    """Which entries of a directory are left out, and all that is in them."""

    patterns: tuple[PathPattern, ...]

    @classmethod
    def of(cls, patterns: Iterable[str]) -> IgnoreRules:
        """From patterns: without ``/`` and ``**`` for names at any depth, else for paths.

        :raises ValueError: one is no pattern, or `patterns` is one string.
        """
        if isinstance(patterns, str):
            raise ValueError("ignore must be a list of patterns, not one string")
        return cls(tuple(name_pattern(text) for text in patterns))

    def ignores(self, path: str, *, is_dir: bool) -> bool:
        """Whether an entry is left out; its parents have been asked about before."""
        return any(pattern.matches(path, is_dir=is_dir) for pattern in self.patterns)

    def ignores_any(self, path: str, *, is_dir: bool) -> bool:
        """Whether an entry is left out, or one of its parents."""
        parts = path.split("/")
        above = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        return self.ignores(path, is_dir=is_dir) or any(
            self.ignores(parent, is_dir=True) for parent in above
        )


def entry_path(name: str) -> str | None:
    """The relative path of an archive's entry; None: the archived directory itself.

    :raises ValueError: it would lie outside of it, or has no place in a file system.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise ValueError(f"an archive from the sandbox has an entry outside of it: {name!r:.200}")
    return "/".join(parts) or None


def link_is_inside(path: str, target: str) -> bool:
    """Whether a symbolic link leads to something in the directory that it is unpacked in.

    Only ``..`` at the beginning can be followed on paper: further on, it leads up from
    wherever another link has led.

    :param path: the link's own, relative to that directory; its parents are no links.
    """
    if not target or target.startswith("/") or "\0" in target:
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    return ups <= path.count("/") and ".." not in parts[ups:]

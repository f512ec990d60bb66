"""An embedded host of a test's own, with settings of its own, that may be ended in the midst."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator

from sandbox_anyio.local.launch import LocalHost

_SERVE = """
import json, sys, anyio
from pathlib import Path
from sandbox_anyio.local.serve import ServeOptions, serve
options = json.loads(sys.argv[1])
if options.get("state_dir"):
    options["state_dir"] = Path(options["state_dir"])
anyio.run(serve, ServeOptions(until_eof=True, **options))
"""
_PATIENCE = 20


class OwnHost:
    """A host in a process of its own.

    :ivar local: where it is, and its key.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        self.local = LocalHost(ready["endpoint"], ready["api_key"], ready["isolation"])

    def terminate(self) -> None:
        """Tell it to end; does not wait."""
        self._process.send_signal(signal.SIGTERM)

    def let_go(self) -> None:
        """Close its standard input; does not wait."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> None:
        """Wait for its end, which is an orderly one."""
        self.let_go()
        assert self._process.wait(_PATIENCE) == 0


@contextlib.contextmanager
def own_host(**options: object) -> Iterator[OwnHost]:
    """A host for the length of a block.

    :param options: fields of `ServeOptions`.
    """
    command = [sys.executable, "-c", _SERVE, json.dumps(options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            host = OwnHost(process)
            yield host
            host.end()
        finally:
            process.kill()  # does nothing to one that has ended

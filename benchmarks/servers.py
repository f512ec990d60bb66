"""The processes that a run needs: the stand-in, with TLS, and lines of 20 ms to it."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .measuring import Setting

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[dict[str, Any]]:
    """A module of this package as a process; what it prints first is yielded."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None and running.stdout is not None
        line = running.stdout.readline()
        if not line:
            raise RuntimeError(f"{arguments[0]} did not start; its reason stands above")
        try:
            yield json.loads(line)
        finally:
            running.stdin.close()


@contextlib.contextmanager
def standing() -> Iterator[Setting]:
    """Everything a case can ask for. Clients of this process trust the server's certificate."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        certificate, key = _certificate(Path(directory))
        server = stack.enter_context(
            process("benchmarks.standin", "--certificate", certificate, "--key", key)
        )
        far = stack.enter_context(process("benchmarks.relay", str(server["plain"])))
        far_secure = stack.enter_context(process("benchmarks.relay", str(server["secure"])))
        stack.enter_context(_environment(Path(directory)))
        yield Setting(
            plain=server["plain"],
            secure=server["secure"],
            far=far["port"],
            far_secure=far_secure["port"],
        )


def _certificate(directory: Path) -> tuple[str, str]:
    """A server's certificate and key; the CA goes into a bundle as long as the system's."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    bundle = _system_bundle() + authority.cert_pem.bytes()
    (directory / "bundle.pem").write_bytes(bundle)
    return str(certificate), str(key)


def _system_bundle() -> bytes:
    """The roots that a client would load: loading them is a part of what is measured."""
    paths = [ssl.get_default_verify_paths().cafile]
    try:
        import certifi
    except ImportError:
        pass
    else:
        paths.append(certifi.where())
    return next((Path(path).read_bytes() for path in paths if path and Path(path).is_file()), b"")


@contextlib.contextmanager
def _environment(directory: Path) -> Iterator[None]:
    """The test's CA is trusted, no proxy stands between, and imports find compiled modules."""
    before = dict(os.environ)
    # As after an installation, for everybody alike; and nothing is written beside the sources.
    os.environ["PYTHONPYCACHEPREFIX"] = str(directory / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["SSL_CERT_FILE"] = str(directory / "bundle.pem")
    for name in list(os.environ):
        if name.lower() in _PROXIES or name.startswith(("LANGSMITH_", "LANGCHAIN_", "SANDBOX_")):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)

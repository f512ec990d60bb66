"""TLS over any `ByteStream`, by OpenSSL and two memory buffers.

Over any stream, so that TLS works through a proxy that itself speaks TLS, and over
the in-memory network.
"""

from __future__ import annotations

import ssl
from typing import cast

from sandbox_proto.machines.base import Buffer

from .network import READ_BYTES, ByteStream

_RECORD_BYTES = 64 * 1024

CertificateRefused = ssl.SSLCertVerificationError


def context_for(verify: bool | ssl.SSLContext) -> ssl.SSLContext:
    """The caller's own context; else one with the system's trust store, or with no checks."""
    if isinstance(verify, ssl.SSLContext):
        return verify
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class TlsStream:
    """A TLS connection as a `ByteStream`. `try_handshake` comes first."""

    def __init__(self, inner: ByteStream, context: ssl.SSLContext, host: str) -> None:
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._encrypted = memoryview(b"")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def try_handshake(self) -> bool:
        """Go on with the handshake; whether it is done.

        :raises OSError: it failed (`CertificateRefused` if because of the certificate).
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if not self._take_encrypted():
                    return False
            else:
                return True

    def try_send(self, data: Buffer) -> int:
        if not self.try_flush():
            return 0
        taken = self._tls.write(memoryview(data)[:_RECORD_BYTES])
        self.try_flush()
        return taken

    def try_flush(self) -> bool:
        while True:
            if not self._encrypted:
                if not self._outgoing.pending:
                    return self._inner.try_flush()
                self._encrypted = memoryview(self._outgoing.read())
            sent = self._inner.try_send(self._encrypted)
            if not sent:
                return False
            self._encrypted = self._encrypted[sent:]

    def try_receive(self, max_bytes: int = READ_BYTES) -> bytes | None:
        while True:
            try:
                return self._tls.read(max_bytes)
            except ssl.SSLWantReadError:
                if not self._take_encrypted():
                    return None
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def try_receive_into(self, buffer: memoryview) -> int | None:
        while True:
            try:
                return cast(int, self._tls.read(len(buffer), buffer))
            except ssl.SSLWantReadError:
                if not self._take_encrypted():
                    return None
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def _take_encrypted(self) -> bool:
        """Move what has arrived into TLS. Returns whether there was anything."""
        self.try_flush()  # the peer may wait for our part of the handshake or of a key update
        data = self._inner.try_receive()
        if data:
            self._incoming.write(data)
        elif data is not None:
            self._incoming.write_eof()
        return data is not None

    async def wait(self, *, readable: bool, writable: bool, until: float | None) -> None:
        await self._inner.wait(readable=readable, writable=writable, until=until)

    def interrupt(self) -> None:
        self._inner.interrupt()

    def send_eof(self) -> None:
        """Does nothing: TLS cannot end one direction and keep the other usable with all peers."""

    def close(self) -> None:
        self._inner.close()

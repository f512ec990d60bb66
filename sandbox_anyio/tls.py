"""TLS over any `ByteStream`, by OpenSSL and two memory buffers.

Over any stream, so that TLS works through a proxy that itself speaks TLS, and over
the in-memory network. Encrypted bytes that the transport did not take yet are kept
here (`unflushed`), never lost to a cancelled caller.
"""

from __future__ import annotations

import ssl
from typing import Self, cast

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
    """A TLS connection as a `ByteStream`."""

    def __init__(self, inner: ByteStream, context: ssl.SSLContext, host: str) -> None:
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._encrypted = memoryview(b"")
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    @classmethod
    async def wrap(cls, inner: ByteStream, context: ssl.SSLContext, host: str) -> Self:
        """Perform the handshake as a client.

        :raises OSError: it failed (`ssl.SSLCertVerificationError` if because of the certificate).
        """
        stream = cls(inner, context, host)
        while True:
            try:
                stream._tls.do_handshake()
            except ssl.SSLWantReadError:
                await stream._flush()
                while not stream._take_encrypted():
                    await inner.wait_receivable()
            else:
                await stream._flush()
                return stream

    # --- sending ----------------------------------------------------------------------

    def try_send(self, data: Buffer) -> int:
        if not self._push():
            return 0
        taken = self._tls.write(memoryview(data)[:_RECORD_BYTES])
        self._push()
        return taken

    @property
    def unflushed(self) -> bool:
        return bool(self._encrypted) or self._outgoing.pending > 0 or self._inner.unflushed

    async def wait_sendable(self) -> None:
        if not self.unflushed:
            await self._inner.wait_sendable()
        await self._flush()

    def _push(self) -> bool:
        """Hand on what is encrypted, without waiting. Returns whether nothing is left."""
        while True:
            if not self._encrypted:
                if not self._outgoing.pending:
                    return True
                self._encrypted = memoryview(self._outgoing.read())
            sent = self._inner.try_send(self._encrypted)
            if not sent:
                return False
            self._encrypted = self._encrypted[sent:]

    async def _flush(self) -> None:
        while not self._push() or self._inner.unflushed:
            await self._inner.wait_sendable()

    # --- receiving --------------------------------------------------------------------

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

    async def wait_receivable(self) -> None:
        if not self._tls.pending():
            await self._inner.wait_receivable()

    def _take_encrypted(self) -> bool:
        """Move what has arrived into TLS. Returns whether there was anything."""
        self._push()  # a key update may want an answer
        data = self._inner.try_receive()
        if data:
            self._incoming.write(data)
        elif data is not None:
            self._incoming.write_eof()
        return data is not None

    async def send_eof(self) -> None:
        """Does nothing: TLS cannot end one direction and keep the other usable with all peers."""
        await self._flush()

    def close(self) -> None:
        self._inner.close()

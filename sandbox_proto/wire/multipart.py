"""One file as ``multipart/form-data``, without copying its content (protocol/05 section 1)."""

from __future__ import annotations

from .http import Buffer
from .ids import Entropy


def file_form(content: Buffer, entropy: Entropy) -> tuple[str, tuple[Buffer, ...]]:
    """The one part the upload endpoint takes.

    :param content: the file's bytes; passed through, not copied.
    :returns: the request's content type, and its body in pieces.
    """
    content_type, head, tail = file_form_frame(entropy)
    return content_type, (head, memoryview(content).cast("B"), tail)


def file_form_frame(entropy: Entropy) -> tuple[str, bytes, bytes]:
    """What goes around a file's content: content type, bytes before it, bytes after it.

    The boundary has 128 random bits, so no content can be prepared to contain it.
    """
    boundary = entropy(16).hex()
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="file"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    tail = f"\r\n--{boundary}--\r\n"
    return f"multipart/form-data; boundary={boundary}", head.encode(), tail.encode()

"""Large frames made here are those that wsproto would have made."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Event, TextMessage

from sandbox_proto.machines.base import SEND_EOF
from sandbox_proto.machines.websocket import Role, WebSocket, WebSocketLimits
from sandbox_proto.machines.ws_masking import LARGE, mask_by_tables

EDGES = [LARGE - 1, LARGE, LARGE + 1, LARGE + 2, LARGE + 3, 65535, 65536, 65537]


def heard(role: Role, sent: list[bytes]) -> list[Event]:
    """What wsproto makes of it at the other end."""
    other = Connection(ConnectionType.SERVER if role == "client" else ConnectionType.CLIENT)
    for data in sent:
        other.receive_data(data)
    return list(other.events())


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("role", ["client", "server"])
def test_wsproto_hears_what_was_said(role: Role, size: int) -> None:
    socket = WebSocket(role, WebSocketLimits(), now=0.0)
    data = random.Random(size).randbytes(size)
    text = "é" * (size // 2) + "x" * (size % 2)
    socket.send_bytes(data, now=0.0)
    socket.send_text(text, now=0.0)
    socket.send_bytes(b"small", now=0.0)
    sent = [bytes(piece) for piece in socket.data_to_send() if piece is not SEND_EOF]
    assert [len(piece) for piece in sent] == [len(piece) for piece in plain(role, data, text)]
    bytes_event, text_event, last = heard(role, sent)
    assert isinstance(bytes_event, BytesMessage) and bytes_event.data == data
    assert isinstance(text_event, TextMessage) and text_event.data == text
    assert isinstance(last, BytesMessage) and last.data == b"small"


def plain(role: Role, data: bytes, text: str) -> list[bytes]:
    """What wsproto itself sends; its keys are others, its lengths are not."""
    own = Connection(ConnectionType.CLIENT if role == "client" else ConnectionType.SERVER)
    events = [BytesMessage(data=data), TextMessage(data=text), BytesMessage(data=b"small")]
    return [own.send(event) for event in events]


@given(
    payload=st.binary(max_size=300),
    head=st.binary(min_size=0, max_size=20),
    key=st.binary(min_size=4, max_size=4),
)
def test_the_mask_is_that_of_the_rfc(payload: bytes, head: bytes, key: bytes) -> None:
    frame = bytearray(head + payload)
    mask_by_tables(frame, len(head), key)
    assert frame == head + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))

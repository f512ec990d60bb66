"""A service for sandboxes: says what it was asked, streams, and speaks WebSocket.

It runs inside a sandbox, on the standard library alone: ``python3 service.py <port>``.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"""\
<!doctype html><meta charset=utf-8><title>hello</title>
<h1>a page from a sandbox</h1><pre id=told>not yet</pre>
<script>
window.told = (async () => {
  const asked = await (await fetch("/asked?by=script")).json();
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws");
  const echoed = await new Promise(resolve => {
    socket.onopen = () => socket.send("hello");
    socket.onmessage = event => resolve(event.data);
  });
  const told = {href: location.href, cookie: document.cookie, asked, echoed};
  document.getElementById("told").textContent = JSON.stringify(told, null, 1);
  return told;
})();
</script>
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        path = self.path.partition("?")[0]
        if self.headers.get("Upgrade") == "websocket":
            self._websocket(path)
            return
        body = self._body()
        if path == "/page":
            self._answer(200, PAGE, "text/html")
        elif path == "/stream":
            self._stream()
        elif path == "/fail":
            self._answer(503, b"not today", "text/plain")
        elif path == "/move":
            self._answer(302, b"", "text/plain", ("Location", "/page"))
        else:
            headers = [[name.lower(), value] for name, value in self.headers.items()]
            said = {"method": self.command, "target": self.path, "headers": headers}
            said["body"] = base64.b64encode(body).decode()
            cookies = ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")
            self._answer(200, json.dumps(said).encode(), "application/json", *cookies)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_any  # noqa: N815 (the base class asks for them)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, body: bytes, kind: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self) -> None:
        """A piece, and after each line that comes on standard input one more."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in itertools.chain(["first\n"], sys.stdin):
            data = line.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _websocket(self, path: str) -> None:
        if path != "/ws":
            self._answer(403, b"", "text/plain")
            return
        magic = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        key = self.headers["Sec-WebSocket-Key"].encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key + magic).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        if "echo" in self.headers.get("Sec-WebSocket-Protocol", ""):
            self.send_header("Sec-WebSocket-Protocol", "echo")
        self.end_headers()
        while (frame := self._frame()) is not None:
            opcode, data = frame
            if opcode == 8 or data == b"bye":
                self._send_frame(8, (4000).to_bytes(2, "big"))
                break
            self._send_frame(opcode, data)
        self.close_connection = True

    def _frame(self) -> tuple[int, bytes] | None:
        head = self.rfile.read(2)
        if len(head) < 2:
            return None
        size = head[1] & 127
        if size >= 126:
            size = int.from_bytes(self.rfile.read(2 if size == 126 else 8), "big")
        mask = self.rfile.read(4)
        data = self.rfile.read(size)
        keys = (mask * (size // 4 + 1))[:size]
        plain = int.from_bytes(data, "big") ^ int.from_bytes(keys, "big")
        return head[0] & 15, plain.to_bytes(size, "big")

    def _send_frame(self, opcode: int, data: bytes) -> None:
        size = len(data)
        head = bytes([128 | opcode])
        if size < 126:
            head += bytes([size])
        elif size < 65536:
            head += b"\x7e" + size.to_bytes(2, "big")
        else:
            head += b"\x7f" + size.to_bytes(8, "big")
        self.wfile.write(head + data)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    address = "::1" if "--ipv6" in sys.argv else "127.0.0.1"
    if ":" in address:
        import socket

        ThreadingHTTPServer.address_family = socket.AF_INET6
    server = ThreadingHTTPServer((address, int(sys.argv[1])), Handler)
    print("listening", flush=True)
    server.serve_forever()

"""Keys, tokens and a server that publishes keys: for everything that verifies tokens.

Tokens are made with PyJWT's signing layer only, so that they can be as wrong as a test
wants them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import PyJWS
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from sandbox_anyio.verifier import SandboxTokenVerifier

from ._servers import ScriptedServer, http_answer, read_request

KEYS: dict[str, Any] = {
    "ed": ed25519.Ed25519PrivateKey.generate(),
    "ed2": ed25519.Ed25519PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 2048),
    "ec": ec.generate_private_key(ec.SECP256R1()),
}
ALGORITHMS = {"ed": "EdDSA", "ed2": "EdDSA", "rsa": "RS256", "ec": "ES256"}
_JWK_MAKERS: dict[str, Any] = {
    "EdDSA": OKPAlgorithm.to_jwk,
    "RS256": RSAAlgorithm.to_jwk,
    "ES256": ECAlgorithm.to_jwk,
}

AUDIENCE = "svc.test:3000"
ISSUER = "https://issuer.test"
CALLBACK_URL = "https://mine.test/callback"
CALLBACK_BODY = json.dumps(
    {"host": "h", "port": 443, "identity": {"tenant_id": "t", "sandbox_id": "s"}}
).encode()


def jwk(name: str, **more: Any) -> dict[str, Any]:
    """The public half of a key as a JWK, with its name as its id."""
    maker = _JWK_MAKERS[ALGORITHMS[name]]
    return {**maker(KEYS[name].public_key(), as_dict=True), "kid": name, **more}


def jwks(*names: str) -> dict[str, Any]:
    """A key set of these keys, or of all."""
    return {"keys": [jwk(name) for name in names or KEYS]}


def sign(
    payload: bytes,
    name: str = "ed",
    *,
    algorithm: str | None = None,
    key: Any = None,
    **header: Any,
) -> str:
    """Anything at all, signed. Header fields that are None are left out."""
    fields = {key: value for key, value in {"kid": name, **header}.items() if value is not None}
    signer = KEYS[name] if key is None else key
    return PyJWS().encode(payload, signer, algorithm or ALGORITHMS[name], headers=fields)


def claims(**changes: Any) -> dict[str, Any]:
    """A user token's claims; a change to None leaves a claim out."""
    now = time.time()
    usual = {"exp": now + 100, "iat": now, "iss": ISSUER, "aud": AUDIENCE, "sub": "user-1"}
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def user_token(name: str = "ed", /, **changes: Any) -> str:
    """A user token, signed by the key of this name."""
    return sign(json.dumps(claims(**changes)).encode(), name)


def callback_signature(name: str = "ed", /, *, body: bytes = CALLBACK_BODY, **changes: Any) -> str:
    """A signature bound to a callback's body."""
    said = {
        "sub": "langsmith-sandbox-callback",
        "aud": CALLBACK_URL,
        "body_sha256": hashlib.sha256(body).hexdigest(),
        **changes,
    }
    return sign(json.dumps(claims(**said)).encode(), name)


def base64url(data: bytes) -> str:
    """One part of a token."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_with_the_public_key() -> str:
    """The old trick: HMAC, with the published RSA key as the secret."""
    secret = KEYS["rsa"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = [json.dumps(each).encode() for each in ({"alg": "HS256", "kid": "rsa"}, claims())]
    signed = ".".join(map(base64url, parts))
    return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), 'sha256'))}"


class Way:
    """One of the two faces: coroutines, or plain calls in whatever thread runs."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def user(self, verifier: SandboxTokenVerifier, token: str, **wanted: Any) -> Any:
        wanted.setdefault("audience", AUDIENCE)
        if self.name == "async":
            return await verifier.averify_user_token(token, **wanted)
        return verifier.verify_user_token(token, **wanted)

    async def callback(self, verifier: SandboxTokenVerifier, signature: str, **wanted: Any) -> Any:
        wanted.setdefault("body", CALLBACK_BODY)
        if self.name == "async":
            return await verifier.averify_callback(signature=signature, **wanted)
        return verifier.verify_callback(signature=signature, **wanted)


class KeyServer(ScriptedServer):
    """Publishes a key set.

    :ivar answer: what is answered to every request, byte for byte.
    :ivar heads: the heads of the requests, in order.
    :ivar asked: set when a request has come.
    :ivar gate: answers are held back while it is closed.
    """

    def __init__(self) -> None:
        super().__init__(self._publish)
        self.answer = http_answer(200, jwks())
        self.heads: list[str] = []
        self.asked = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    @property
    def fetches(self) -> int:
        return len(self.heads)

    def publish(self, document: Any) -> None:
        self.answer = http_answer(200, document)

    def _publish(self, connection: socket.socket) -> None:
        while True:
            head, _ = read_request(connection)
            self.heads.append(head)
            self.asked.set()
            self.gate.wait(timeout=30)
            connection.sendall(self.answer)

    def __exit__(self, *exc: object) -> None:
        self.gate.set()
        super().__exit__(*exc)

"""Tokens that the host signs for itself: access to a port, or to one file, for a while."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

_SIGNATURE_BYTES = 32


def sign_token(secret: bytes, claims: Mapping[str, Any]) -> str:
    """A token that holds claims, readable by all and made by none but the holder of `secret`."""
    payload = json.dumps(claims, separators=(",", ":"), sort_keys=True).encode()
    signature = hmac.digest(secret, payload, hashlib.sha256)
    return base64.urlsafe_b64encode(signature + payload).decode().rstrip("=")


def read_token(secret: bytes, token: str) -> dict[str, Any] | None:
    """The claims of a token, or None if it is not genuine. Its expiry is the caller's business."""
    try:
        data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        return None
    signature, payload = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, hmac.digest(secret, payload, hashlib.sha256)):
        return None
    claims = json.loads(payload)
    return claims if isinstance(claims, dict) else None

"""The loggers of this package, by subject. Silent unless the application says otherwise.

``sandbox_anyio`` and below it ``.client`` (lifecycle), ``.exec`` (commands),
``.tunnel`` (tunnels), ``.local`` (the embedded host). None of them ever logs a key, a token, a
command or its output.
"""

from __future__ import annotations

import logging

_root = logging.getLogger("sandbox_anyio")
_root.addHandler(logging.NullHandler())

client_log = _root.getChild("client")
exec_log = _root.getChild("exec")
tunnel_log = _root.getChild("tunnel")
local_log = _root.getChild("local")

"""The host's records in SQLite: what was acknowledged survives a crash of the host."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SCHEMA = "CREATE TABLE IF NOT EXISTS boxes (id TEXT PRIMARY KEY, document TEXT NOT NULL) STRICT"


class Store:
    """One small database. Every call is durable against a crash of the process when it returns.

    The write-ahead log makes a commit one append of some 50 microseconds, so the calls are
    made in the event loop, where their order is the order of the decisions.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(_SCHEMA)

    def boxes(self) -> list[dict[str, Any]]:
        """Every stored record, oldest first."""
        rows = self._database.execute("SELECT document FROM boxes ORDER BY rowid")
        return [json.loads(document) for (document,) in rows]

    def save_box(self, box_id: str, document: Mapping[str, Any] | None) -> None:
        """Store a record, or forget it."""
        if document is None:
            self._database.execute("DELETE FROM boxes WHERE id = ?", (box_id,))
        else:
            self._database.execute(
                "INSERT INTO boxes VALUES (?, ?) "
                "ON CONFLICT (id) DO UPDATE SET document = excluded.document",
                (box_id, json.dumps(document)),
            )

    def close(self) -> None:
        """Close the database."""
        self._database.close()

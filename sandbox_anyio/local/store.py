"""The host's records in SQLite: what was acknowledged survives a crash of the host."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sandbox_proto.host.effects import Record

_SCHEMA = """\
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT"""
_STORE = (
    "INSERT INTO records VALUES (?, ?, ?) "
    "ON CONFLICT (kind, key) DO UPDATE SET document = excluded.document"
)


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

    def load(self) -> list[Record]:
        """Every stored record, oldest first."""
        rows = self._database.execute("SELECT kind, key, document FROM records ORDER BY rowid")
        return [Record(kind, key, json.loads(document)) for kind, key, document in rows]

    def save(self, records: Sequence[Record]) -> None:
        """Store the records, or forget those without a document: all of it, or nothing."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            for record in records:
                if record.document is None:
                    self._database.execute(
                        "DELETE FROM records WHERE kind = ? AND key = ?", (record.kind, record.key)
                    )
                else:
                    document = json.dumps(record.document)
                    self._database.execute(_STORE, (record.kind, record.key, document))
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

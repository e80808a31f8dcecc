"""What a look at a file found, kept by the file's content: the next look at the same bytes is a look-up.

One SQLite file in the user's folder for caches; entries of other versions of the checks are never used. A database that
is damaged, locked or cannot be written costs time only: the files are looked at again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from ..data.coco_files import cache_folder

MOST = 300_000  # entries that are kept, about 100 MB: two and a half COCOs
_TABLE = 'CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, value TEXT NOT NULL)'
_SOURCES = ('data.files', 'data.image_headers', 'data.images', 'data.label_files', 'data_check.pictures',
            'data_check.label_facts', 'data_check.looking')
_LIBRARIES = ('cv2', 'PIL', 'numpy')


def memory_file() -> Path:
    """Where it is kept: `mmbackbones/data_check.sqlite` in the user's folder for caches."""
    return cache_folder().parent / 'data_check.sqlite'


@cache
def looks_version() -> bytes:
    """Hash of the source of what is looked at, and of the decoders' versions: a change makes every file unknown."""
    package = __name__.split('.')[0]
    digest = hashlib.blake2b(digest_size=8)
    for name in _SOURCES:
        digest.update(Path(import_module(f'{package}.{name}').__file__).read_bytes())
    for name in _LIBRARIES:
        digest.update(import_module(name).__version__.encode())
    return digest.digest()


class Memory:
    """The database, opened for reading; `add` opens it for a moment to write.

    Args:
        file: the database; None remembers nothing.
        most: entries that are kept; the oldest go first.
    """

    def __init__(self, file: Path | None, most: int = MOST) -> None:
        self.file, self.most, self._open = file, most, None
        if file is not None and file.is_file():
            with suppress(sqlite3.Error, OSError):
                self._open = sqlite3.connect(f'{file.absolute().as_uri()}?mode=ro', uri=True, timeout=1)

    def get(self, key: bytes) -> dict[str, Any] | None:
        """Return what is known of the file with this key, if anything is."""
        if self._open is None:
            return None
        try:
            row = self._open.execute('SELECT value FROM facts WHERE key = ?', (key,)).fetchone()
            value = json.loads(row[0]) if row else None
        except (sqlite3.Error, ValueError, TypeError):
            return None
        return value if isinstance(value, dict) else None

    def add(self, items: Mapping[bytes, Mapping[str, Any]]) -> None:
        """Keep `items`; a damaged database is made anew."""
        if self.file is None or not items:
            return
        rows = [(key, json.dumps(value)) for key, value in items.items()]
        with suppress(sqlite3.Error, OSError):
            try:
                self._write(rows)
            except sqlite3.OperationalError:  # locked or read-only: not damaged
                return
            except sqlite3.DatabaseError:
                self.file.unlink()
                self._write(rows)

    def _write(self, rows: Iterable[tuple[bytes, str]]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.file, timeout=5)) as database, database:
            database.execute(_TABLE)
            database.executemany('INSERT OR REPLACE INTO facts VALUES (?, ?)', rows)
            database.execute(
                'DELETE FROM facts WHERE rowid <= (SELECT max(rowid) FROM facts) - ?', (self.most,))

    def close(self) -> None:
        """Close it."""
        if self._open is not None:
            self._open.close()
            self._open = None

"""Which processes of this machine live."""

from __future__ import annotations

import os
from pathlib import Path


def process_start(pid: int) -> str | None:
    """When process `pid` started (clock ticks since boot, of /proc); None if it is dead or a zombie."""
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    except (OSError, IndexError):
        return None if Path('/proc/self/stat').exists() else ('' if _alive(pid) else None)
    return None if fields[0] in 'ZX' else fields[19]


def _alive(pid: int) -> bool:
    """For systems without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

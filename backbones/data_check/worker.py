"""What a process imports that looks at files: slow, so it is done once for all of them; toolboxes talk meanwhile."""

from __future__ import annotations

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):
    import cv2

    from . import label_facts, pictures  # noqa: F401


def prepare() -> None:
    """Decode with one thread: there is a process for each core."""
    cv2.setNumThreads(1)

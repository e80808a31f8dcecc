"""An annotation file without an error here passes the strict reading of training, which is so spared its checks."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from ..data.coco_files import cache_folder, checks_version, state_of_file
from ..files import write_json


def remember_passed(file: str, state: tuple[int, ...] | None, annotations: int) -> None:
    """Note it as `backbones.data.coco_files.load_coco` does, unless the file is another than that of `state` by now.

    Args:
        file: an annotation file in which `check_annotations` found no error: it finds all that the strict reading
            refuses.
        state: of the file, before it was read.
        annotations: how many it has.
    """
    with suppress(OSError):  # a home that cannot be written to: checked again next time
        digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        passed = cache_folder() / f'{digest}.{checks_version()}.json'
        if state is not None and state == state_of_file(file) and not passed.is_file():
            write_json(passed, dict(file=os.path.abspath(file), annotations=annotations))

"""The file of logged numbers, on a disk that may be full."""

from __future__ import annotations

import logging

from mmengine.logging import print_log
from mmengine.visualization import LocalVisBackend as PlainLocalVisBackend

from backbones.registry import VISBACKENDS


@VISBACKENDS.register_module()
class LocalVisBackend(PlainLocalVisBackend):
    """MMEngine's LocalVisBackend; numbers that cannot be written are a warning, and the run goes on without them."""

    _warned = False

    def _dump(self, value_dict: dict, file_path: str, file_format: str) -> None:
        try:
            super()._dump(value_dict, file_path, file_format)
            self._warned = False
        except OSError as error:
            if not self._warned:  # once until it works again
                print_log(
                    f'logged numbers cannot be written to {file_path} ({error.strerror}); the run goes on without them',
                    logger='current', level=logging.WARNING)
            self._warned = True

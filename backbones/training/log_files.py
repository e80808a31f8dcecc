"""The file of logged numbers, on a disk that may be full; the trackers are registered with it."""

from __future__ import annotations

import logging

from mmengine.logging import print_log
from mmengine.visualization import LocalVisBackend as PlainLocalVisBackend

from backbones.registry import VISBACKENDS
from backbones.training.mlflow_tracker import MLflowVisBackend
from backbones.training.tensorboard_tracker import TensorboardVisBackend
from backbones.training.wandb_tracker import WandbVisBackend

__all__ = ['LocalVisBackend', 'MLflowVisBackend', 'TensorboardVisBackend', 'WandbVisBackend']


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

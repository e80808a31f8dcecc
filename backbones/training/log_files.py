"""The log file and the file of logged numbers, on a disk that may be full; the trackers are registered with them."""

from __future__ import annotations

import logging
import sys

from mmengine.logging import print_log
from mmengine.visualization import LocalVisBackend as PlainLocalVisBackend

from backbones.registry import VISBACKENDS
from backbones.training.mlflow_tracker import MLflowVisBackend
from backbones.training.tensorboard_tracker import TensorboardVisBackend
from backbones.training.wandb_tracker import WandbVisBackend

__all__ = ['LocalVisBackend', 'MLflowVisBackend', 'TensorboardVisBackend', 'WandbVisBackend']


def spare_the_run(logger: logging.Logger) -> None:
    """Tell once that a log file cannot be written, where logging prints a traceback for each line."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = _Teller(handler)


class _Teller:
    """`handleError` of a handler."""

    def __init__(self, handler: logging.FileHandler) -> None:
        self.file, self.otherwise, self.told = handler.baseFilename, handler.handleError, False

    def __call__(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.otherwise(record)
        elif not self.told:
            self.told = True
            print(f'warning: the log file {self.file} cannot be written ({error.strerror}); the run goes on without it',
                  file=sys.stderr, flush=True)


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

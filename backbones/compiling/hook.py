"""The hook that compiles the model of a run and watches that nothing is compiled twice."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from backbones.compiling.regions import MOST, Region, compile_for_training
from backbones.registry import HOOKS


@HOOKS.register_module()
class CompileHook(Hook):
    """Compile backbone, neck, RPN and decode heads for training; warn where a graph breaks or is made twice.

    Args:
        most: sizes of the input for which a part is compiled; those beyond run uncompiled, with one warning.
        backend: of torch.compile.
        warmup: iterations after which the counts are looked at for the first time.
        interval: iterations between two looks.
    """

    priority = 'VERY_LOW'  # after EMAHook has copied the model, after the precision has been set

    def __init__(self, most: int = MOST, backend: str = 'inductor', warmup: int = 50, interval: int = 500) -> None:
        for name, value in dict(most=most, warmup=warmup, interval=interval).items():
            if type(value) is not int or value < 1:
                raise ValueError(f'CompileHook: {name}={value!r}; give a number, 1 or more')
        self.most, self.backend, self.warmup, self.interval = most, backend, warmup, interval
        self.regions: list[Region] = []
        self._done = 0
        self._said: dict[str, tuple[int, int]] = {}

    def before_train(self, runner: Runner) -> None:
        """Compile; what is compiled is made at the first pass."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.regions = compile_for_training(model, most=self.most, backend=self.backend)
        names = ', '.join(region.name for region in self.regions)
        print_log(f'--compile: {names}; the first pass of each size takes long', logger='current')

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Look at the counts now and then."""
        self._done += 1
        if self._done >= self.warmup and (self._done - self.warmup) % self.interval == 0:
            self._look()

    def after_train(self, runner: Runner) -> None:
        """Say what was compiled."""
        self._look()
        told = '; '.join(f'{region.name}: {region.counts}' for region in self.regions)
        print_log(f'--compile: {told}', logger='current')
        for region in self.regions:
            region.restore()

    def _look(self) -> None:
        for region in self.regions:
            now = region.counts.recompiles, region.counts.graph_breaks
            if now != self._said.get(region.name, (0, 0)):
                print_log(
                    f'--compile: {region.name} had {now[0]} recompilations and {now[1]} graph breaks so far, where '
                    'there should be none, and is slower for it; TORCH_LOGS=recompiles,graph_breaks says why',
                    logger='current', level=logging.WARNING)
                self._said[region.name] = now

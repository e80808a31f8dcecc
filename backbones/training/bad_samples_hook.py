"""The unreadable samples of a run in its end report."""

from __future__ import annotations

import logging

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from backbones.registry import HOOKS


@HOOKS.register_module()
class BadSamplesHook(Hook):
    """At the end of training, say how many samples could not be read and were replaced (`on_bad_sample='skip'`).

    It says nothing where the data set stops at the first one.
    """

    priority = 'LOW'  # before the last checkpoint, which may fail

    def after_train(self, runner: Runner) -> None:
        """Read the record that the workers wrote."""
        if not is_main_process():
            return
        from backbones.data.bad_samples import read_bad_samples, skipping_datasets  # a plain hook needs no toolbox

        records: dict[str, int] = {}
        for dataset in skipping_datasets(runner.train_dataloader.dataset):
            records[dataset.bad_samples_file] = dataset.max_bad_samples
        for path, budget in records.items():
            events = read_bad_samples(path)
            if not events:
                runner.logger.info(f'unreadable samples: none ({path} was not needed)')
                continue
            files = sorted({event['file'] for event in events})
            runner.logger.log(
                logging.WARNING,
                f'unreadable samples: {len(files)} files (budget {budget}), replaced by the next readable one '
                f'{len(events)} times: {", ".join(files[:3])}{", ..." if len(files) > 3 else ""}; listed in {path}',
            )

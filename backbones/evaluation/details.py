"""`tools/test.py --details`: the folder `evaluation/` of a work folder, from the evaluation that has just run.

    evaluation/predictions.json    COCO results, exactly as they were scored (a segmenter: predictions.zip, label PNGs)
    evaluation/details.json        all that is known of them, and how it was counted; docs/evaluation.md lists it

`details.json` is written last and whole: a folder without it is of a run that was ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from backbones.config import is_segmenter
from backbones.data.files import shown
from backbones.files import keep_older, write_bytes
from backbones.training.run_record import plain, versions

from .protocol import evaluation_protocol

FOLDER = 'evaluation'
FILE = 'details.json'
FORMAT = 1  # of details.json; rises where a reader of the older one would go wrong
RESAMPLINGS = 1000
FEWEST, MOST = 100, 10_000  # resamplings: below, the ends of an interval are those of 2 draws; above takes gigabytes
MOST_DETECTIONS = 100_000  # that --max-dets may name


@dataclass(frozen=True)
class DetailOptions:
    """What `--details` was asked for.

    Args:
        max_dets: numbers of detections of an image and class for AP and AR; None: AR at COCO's.
        score: threshold of precision, recall, F1 and the confusion matrix; None: where F1 is best.
        resamplings: of the images, for the intervals.
    """

    max_dets: tuple[int, ...] | None = None
    score: float | None = None
    resamplings: int = RESAMPLINGS

    def check(self, segmenter: bool) -> None:
        """Refuse what does not fit.

        Raises:
            ValueError: naming the option.
        """
        for name, value in (('--max-dets', self.max_dets), ('--score', self.score)):
            if segmenter and value is not None:
                raise ValueError(f'{name} is of detectors, and this config is of a segmenter; leave it out')
        if self.max_dets is not None and not all(1 <= number <= MOST_DETECTIONS for number in self.max_dets):
            raise ValueError(f'--max-dets {" ".join(map(str, self.max_dets))}: numbers of detections lie from 1 to '
                             f'{MOST_DETECTIONS}; COCO takes 1 10 100')
        if self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(f'--score {self.score:g}: scores lie from 0 to 1')
        check_resamplings(self.resamplings)


def check_resamplings(number: int) -> None:
    """Refuse a number of resamplings that gives no interval or takes too much memory.

    Raises:
        ValueError: saying which numbers do.
    """
    if not FEWEST <= number <= MOST:
        raise ValueError(f'--resamplings {number}: give {FEWEST} to {MOST}; {RESAMPLINGS} are usual')


class Details:
    """Keeps what an evaluation predicts, and tells everything about it afterwards.

    Args:
        runner: of the evaluation, built and not run.
        checkpoint: path of its weights.
        options: what was asked for.
        tta: the run merges several views.
        out: of `tools/test.py`.

    Raises:
        ValueError: the config evaluates what cannot be looked at.
    """

    def __init__(
        self, runner: Runner, checkpoint: str, options: DetailOptions, tta: bool = False, out: str | None = None
    ) -> None:
        self.runner, self.checkpoint, self.options, self.tta = runner, str(checkpoint), options, tta
        self.folder = Path(runner.work_dir) / FOLDER
        if is_segmenter(runner.cfg):
            from .details_segmentation import KeptLabelMaps

            self.kept = KeptLabelMaps(runner, self.folder, self._make_folder, out)
            runner.register_hook(self.kept)
        else:
            from .details_detection import KeptDetections

            self.kept = KeptDetections(runner)

    def write(self, metrics: dict[str, float]) -> dict[str, Any] | None:
        """Write the folder and print the tables; on the first of several processes only, which gives `details.json`."""
        if not is_main_process():
            return None
        from rich.console import Console

        from .tables import print_details

        segments = is_segmenter(self.runner.cfg)
        details = self._head(metrics) | (self._of_labels(metrics) if segments else self._of_detections())
        write_details(self.folder / FILE, details)
        print_details(details, Console(highlight=False))
        self.runner.logger.info(f'details written to {shown(self.folder)}')
        return details

    def _make_folder(self) -> None:
        kept = keep_older(self.folder)
        if kept is not None:
            self.runner.logger.info(f'{shown(self.folder)} of another evaluation is kept as {kept.name}')
        self.folder.mkdir(parents=True)

    def _head(self, metrics: dict[str, float]) -> dict[str, Any]:
        cfg: Config = self.runner.cfg
        dataset = self.kept.dataset
        return dict(
            format=FORMAT, task='segmentation' if is_segmenter(cfg) else 'detection', config=str(cfg.filename),
            checkpoint=self.checkpoint, written=datetime.now(timezone.utc).isoformat(timespec='seconds'),
            classes=list(dataset.metainfo['classes']), protocol=plain(evaluation_protocol(cfg, 'test', self.tta)),
            metrics={str(name): value for name, value in metrics.items()},
            resamplings=self.options.resamplings, seed=0, versions=versions())

    def _of_detections(self) -> dict[str, Any]:
        from .details_detection import METRICS, analyse_detections, protocol_of, steps_of, write_predictions

        kept, options = self.kept, self.options
        coco = kept.annotations()
        found = kept.detections(coco)
        self._make_folder()
        files = write_predictions(self.folder, found)
        file = kept.annotation_file()
        data = dict(
            annotation_file=file, annotation_sha256=digest_of(file), folder=os.getcwd(), images=len(coco.imgs),
            image_folder=str((kept.dataset.data_prefix or {}).get('img', '')),
            categories=[dict(id=number, name=str(coco.cats[number]['name'])) for number in sorted(coco.cats)])
        parts = {}
        with steps(steps_of(kept.kinds, options.resamplings)) as tick:
            for kind in METRICS:
                if kind in kept.kinds:
                    parts[kind] = analyse_detections(
                        coco, found, kind, max_dets=options.max_dets, threshold=options.score,
                        resamplings=options.resamplings, tick=tick)
                    parts[kind] = dict(protocol=protocol_of(kind, parts[kind])) | parts[kind]
        detected = sum(len(one.scores) for one in (found['boxes'],))
        remarks = [] if detected else ['the model detected no object in any image']
        return dict(data=data, kinds=list(parts), files=files, detections=detected, remarks=remarks, **parts)

    def _of_labels(self, metrics: dict[str, float]) -> dict[str, Any]:
        from .details_segmentation import FILE as PREDICTIONS
        from .details_segmentation import analyse_labels

        pairs, dataset = self.kept.pairs(), self.kept.dataset
        section = self.runner.cfg.test_dataloader.dataset.to_dict()
        prefix = dict(dataset.data_prefix)
        with steps(len(pairs.names), 'image') as tick:
            part = analyse_labels(
                pairs, resamplings=self.options.resamplings, progress=lambda done, number: tick('label maps'),
                metrics=metrics)
        data = dict(
            image_folder=str(prefix.get('img_path', '')), label_folder=str(prefix.get('seg_map_path', '')),
            folder=os.getcwd(), images=len(pairs.names), ignore_index=pairs.ignore_index,
            reduce_zero_label=bool(dataset.reduce_zero_label), zero_is_ignored=pairs.zero_is_ignored,
            dataset=plain({name: value for name, value in section.items() if name != 'pipeline'}))
        return dict(data=data, kinds=['labels'], files=dict(labels=PREDICTIONS), remarks=part['remarks'], labels=part)


def write_details(path: Path, details: dict[str, Any]) -> None:
    """Write `details.json`; a number that is none becomes null."""
    from backbones.analysis.segmentation_counts import plain as without_nan

    write_bytes(path, (json.dumps(without_nan(details), allow_nan=False) + '\n').encode())


def digest_of(file: str | None) -> str | None:
    """SHA-256 of a file; None where it is not on this machine."""
    if not file or not Path(file).is_file():
        return None
    digest = hashlib.sha256()
    with open(file, 'rb') as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


@contextlib.contextmanager
def steps(number: int, unit: str = 'step') -> Iterator[Callable[[str], None]]:
    """A bar on a terminal for what takes longer than two seconds; call what it gives with the name of what is done."""
    from tqdm import tqdm

    with tqdm(total=number, desc='details', unit=unit, delay=2, leave=False, disable=None) as bar:

        def tick(text: str) -> None:
            bar.set_description(text, refresh=False)
            bar.update()

        yield tick

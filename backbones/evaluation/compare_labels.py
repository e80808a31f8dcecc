"""Two sets of predicted label maps held against each other: the part of `compare_files` that is of segmenters."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.data.files import shown
from backbones.missing import toolbox_needed

from .compare_files import CompareOptions, Source, difference_row, locate
from .details import steps

CLASS_FILE = 'classes.txt'


def compare_label_maps(sources: Sequence[Source], options: CompareOptions) -> tuple[dict[str, Any], list[str]]:
    """Compare; see `compare_files.compare_predictions`."""
    from backbones.analysis.bootstrap import LEVEL
    from backbones.analysis.segmentation_analysis import analyse_segmentation, compare_analyses
    from backbones.analysis.segmentation_files import read_label_predictions

    with toolbox_needed():
        importlib.import_module('mmseg.datasets')
    dataset, ignore_index = _data_set(sources, options)
    pairs = []
    for source in sources:
        counted = source.details['data']['zero_is_ignored'] if source.details else None
        pairs.append(read_label_predictions(
            source.files['labels'], dataset, ignore_index=ignore_index, zero_is_ignored=counted))
    with steps(sum(len(one.names) for one in pairs), 'image') as tick:
        found = [analyse_segmentation(one, errors=False, progress=lambda done, number: tick('label maps'))
                 for one in pairs]
    compared = compare_analyses(*found, replicates=options.resamplings, seed=options.seed)
    rows = {name: [_row(title, one) for title, one in zip(compared.classes, each, strict=True)]
            for name, each in compared.per_class.items()}
    first = {name: compared.summary[name] for name in ('mIoU', *compared.summary)}
    part = dict(
        images=compared.images, replicates=options.resamplings, level=LEVEL, seed=options.seed, by='IoU',
        overall=[_row(name, one) for name, one in first.items()], classes=rows['IoU'], all_classes=rows)
    return dict(labels=part), [*compared.remarks, *(text for one in found for text in one.remarks())]


def _row(name: str, one: Any) -> dict[str, Any]:
    among = one.beyond_noise_among_all
    return difference_row(name, one.first, one.second, one.difference, one.chance, one.beyond_noise, among)


def _data_set(sources: Sequence[Source], options: CompareOptions) -> tuple[Any, int]:
    """The data set that both are of, and the label that is ignored."""
    known = [source for source in sources if source.details]
    if options.config and options.labels:
        raise ValueError('--config and --labels both name the label maps; give one of them')
    if options.labels:
        return _LabelFolder(options), 255
    if options.config:
        from backbones.config import load_config

        cfg = load_config(options.config, options.config_options)
        evaluator = cfg.get('test_evaluator')
        ignored = evaluator.get('ignore_index', 255) if isinstance(evaluator, dict) else 255
        return _built(cfg.test_dataloader.dataset.to_dict()), ignored
    if not known:
        raise ValueError('--config CONFIG is needed, whose test data set these predictions are of, or --labels FOLDER')
    places = [_place(source.details['data']) for source in known]
    if len(set(places)) > 1:
        raise ValueError(f'the two are of different data sets: {shown(sources[0].given)} of {places[0][0]} and '
                         f'{shown(sources[1].given)} of {places[1][0]}; evaluate both on one')
    data = known[0].details['data']
    section = dict(data['dataset'])
    if section.get('data_root'):
        section['data_root'] = locate(section['data_root'], data['folder'])
    else:
        section['data_prefix'] = {
            name: locate(path, data['folder']) for name, path in (section.get('data_prefix') or {}).items()}
    return _built(section), data['ignore_index']


def _place(data: dict[str, Any]) -> tuple:
    folder = str(Path(data['folder'], data['label_folder']).resolve())
    return folder, data['images'], data['reduce_zero_label'], data['ignore_index']


def _built(section: dict[str, Any]) -> Any:
    from mmengine.registry import init_default_scope

    from backbones.registry import DATASETS

    init_default_scope('mmseg')
    try:
        return DATASETS.build({**section, 'pipeline': [], 'test_mode': True, 'serialize_data': False})
    except (KeyError, TypeError, AssertionError, OSError) as error:
        raise ValueError(f'the data set of the label maps cannot be built: {error}; give --config CONFIG or --labels '
                         'FOLDER') from error


class _LabelFolder:
    """A folder of label maps as the data set that `read_label_predictions` asks for.

    Raises:
        ValueError: what is needed is not told.
    """

    def __init__(self, options: CompareOptions) -> None:
        folder = Path(options.labels)
        if not folder.is_dir():
            raise ValueError(f'--labels {shown(folder)} is no folder; give the folder of the label maps')
        if options.first_class is None:
            raise ValueError('--labels needs --first-class: 1 where the label maps count classes from 1 and 0 is '
                             'ignored, 0 where they count from 0 and 255 is ignored')
        self._files = sorted(file for file in folder.rglob('*.png') if not file.name.startswith('.'))
        if not self._files:
            raise ValueError(f'--labels {shown(folder)} holds no label map (*.png); give their folder')
        self.metainfo = dict(classes=_class_names(folder, options.classes))
        self.data_prefix = dict(img_path=str(folder))
        self.reduce_zero_label = options.first_class == 1

    def __len__(self) -> int:
        return len(self._files)

    def get_data_info(self, index: int) -> dict[str, Any]:
        """What a data set of mmseg says of a picture."""
        file = str(self._files[index])
        return dict(img_path=file, seg_map_path=file, label_map=None, reduce_zero_label=self.reduce_zero_label,
                    seg_fields=[])


def _class_names(folder: Path, given: str | None) -> tuple[str, ...]:
    near = [place / CLASS_FILE for place in (folder, *folder.absolute().parents[:2])]
    file = Path(given) if given else next((one for one in near if one.is_file()), None)
    if file is None or not file.is_file():
        where = shown(given) if given else f'{CLASS_FILE} near {shown(folder)}'
        raise ValueError(f'{where} is not there; give --classes FILE, with a class name a line')
    try:
        names = tuple(line.strip() for line in file.read_text('utf-8-sig').splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f'{shown(file)} is no text in UTF-8 ({error}); give a class name a line') from error
    if not names:
        raise ValueError(f'{shown(file)} names no class; give a class name a line')
    return names

"""The data sets that a config names, for `backbones.data_check`: read off the config, nothing is built."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from backbones import data, data_check
from backbones.classes_setting import dataset_class, datasets_of
from backbones.config import dicts_in
from backbones.data.label_files import read_names
from backbones.data_check.check import check_coco, check_label_maps
from backbones.data_check.layout import CocoSplit, LabelMapSplit
from backbones.data_check.looking import Looker
from backbones.findings import Finding, Outcome
from backbones.image_sizes import image_sizes

SPLITS = ('train', 'val', 'test')
BY_HEART = 50  # pictures; trained and scored on so few, a run is a test of itself: coco8, overfitting on purpose


def check_data(cfg: Config, looker: Looker, sample: int | None = None) -> list[Outcome]:
    """Look at the data of a config's splits.

    Args:
        cfg: as composed by `backbones.training.compose`.
        looker: what looks at the files.
        sample: pictures or label maps of each split that are looked at; None looks at all.
    """
    coco, maps, others = splits_of(cfg)
    gone = _in_missing_roots(coco + maps)
    outcomes = list(_roots_missing(gone))
    left_out = [split for splits in gone.values() for split in splits]
    coco, maps = ([one for one in every if one[0] not in left_out] for every in (coco, maps))
    if coco:
        classes = next((classes for _, node in coco if (classes := _classes(node, cfg))), None)
        outcomes += check_coco(
            [split for split, _ in coco], classes=classes, looker=looker, sample=sample, input_size=_input_size(cfg),
            anchors=_anchors(cfg))
    if maps:
        node = maps[0][1]
        outcomes += check_label_maps(
            [split for split, _ in maps], classes=_classes(node, cfg), reduce_zero_label=_reduces_zero(node, cfg),
            classes_file=_classes_file(node, cfg), looker=looker, sample=sample)
    outcomes += _on_training_data(cfg, outcomes)
    return outcomes + [
        Outcome(f'data {name}', skipped=f'{node.get("type")} is none of the kinds whose files are looked at')
        for name, node in others]


def _in_missing_roots(splits: list[tuple[CocoSplit | LabelMapSplit, dict]]) -> dict[str, list]:
    """The splits whose files are all below a `data_root` that is no folder, by that."""
    gone: dict[str, list] = {}
    for split, node in splits:
        root = str(node.get('data_root') or '')
        places = [split.file] if isinstance(split, CocoSplit) else [split.pictures, split.labels]
        if root and '://' not in root and not os.path.isdir(root) and all(place.startswith(root) for place in places):
            gone.setdefault(root, []).append(split)
    return gone


def _roots_missing(gone: dict[str, list]) -> Iterator[Outcome]:
    """Say once what every file of these splits would tell."""
    for root, splits in gone.items():
        names = [split.name for split in splits]
        said = f'data_root={root!r} {"is no folder" if os.path.exists(root) else "does not exist"}; '
        yield Outcome('data folder' + (' of test' if names == ['test'] else ''), findings=[Finding(
            'error', 'folder missing', f'{said}{" and ".join(names)} {"is" if len(names) == 1 else "are"} read from it',
            'put the data there, or name their folder by --cfg-options data_root=FOLDER; data/README.md shows the '
            'layouts', field='data_root', value=root)])


def _on_training_data(cfg: Config, outcomes: list[Outcome]) -> Iterator[Outcome]:
    """Say where a split that is scored has the files that are trained on; of a few pictures it is a test by heart."""
    places: dict[str, dict[Any, str]] = {}
    for split in SPLITS:
        for place, node in datasets_of(cfg, split):
            found = _coco(split, node) or _maps(split, node, cfg)
            key = found and (found.file if isinstance(found, CocoSplit) else (found.labels, found.names))
            if key and node.get('indices') is None:
                places.setdefault(split, {})[key] = f'{place}.{"ann_file" if isinstance(key, str) else "data_prefix"}'
    figures = [outcome.figures for outcome in outcomes if outcome.name.endswith(' train')]
    pictures = max((number for each in figures for name in ('pictures', 'pairs') if isinstance(
        number := each.get(name), int)), default=0)
    for split in SPLITS[1:]:
        for key in places.get(split, {}).keys() & places.get('train', {}).keys():
            file = key if isinstance(key, str) else key[0]
            severity = 'note' if pictures <= BY_HEART else 'warning'
            yield Outcome(f'data of {split}', 'those of the training', [Finding(
                severity, 'scored on the training data', f'{places[split][key]} names {file}, which is trained on, '
                'too: what is scored was learnt by heart', 'name the files of the validation', file=file,
                field=places[split][key])])
            break
        else:
            continue
        break


def splits_of(
    cfg: Config,
) -> tuple[list[tuple[CocoSplit, dict]], list[tuple[LabelMapSplit, dict]], list[tuple[str, dict]]]:
    """The splits in COCO's format, those with label maps, and names of others; each once, with its settings."""
    coco, maps, others = [], [], []
    for split in SPLITS:
        for place, node in datasets_of(cfg, split):
            name = split if place == f'{split}_dataloader.dataset' else place
            found = _coco(name, node) or _maps(name, node, cfg)
            if isinstance(found, CocoSplit) and found.file not in [one.file for one, _ in coco]:
                coco.append((found, node))
            elif isinstance(found, LabelMapSplit) and found.labels not in [one.labels for one, _ in maps]:
                maps.append((found, node))
            elif found is None:
                others.append((name, node))
    return coco, maps, others


def state_of_data(cfg: Config) -> str:
    """A word that changes with the settings of the data sets, their annotation files and folders, and the checks."""
    coco, maps, _ = splits_of(cfg)
    places = [place for split, _ in coco for place in (split.file, split.pictures)]
    places += [place for split, _ in maps for place in (split.pictures, split.labels)]
    states = []
    for place in filter(None, places):
        with contextlib.suppress(OSError):
            state = os.stat(place)
            states.append((os.path.realpath(place), state.st_size, state.st_mtime_ns))
    sources = sorted(Path(data_check.__file__).parent.glob('*.py')) + sorted(Path(data.__file__).parent.glob('*.py'))
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    settings = [repr((split, dict(node))) for split, node in coco + maps]
    digest.update(repr((settings, states, _input_size(cfg), _anchors(cfg))).encode())
    return digest.hexdigest()


def _under(root: Any, path: Any) -> str:
    """A path below the `data_root` of a data set, as MMEngine joins them."""
    path = str(path or '')
    return path if os.path.isabs(path) or '://' in path else os.path.join(str(root or ''), path)


def _coco(name: str, node: Mapping[str, Any]) -> CocoSplit | None:
    file, prefix = node.get('ann_file'), node.get('data_prefix') or {}
    if not isinstance(file, str) or not file.endswith('.json'):
        return None
    root = node.get('data_root')
    pictures = prefix.get('img', prefix.get('img_path', '')) if isinstance(prefix, Mapping) else ''
    return CocoSplit(name, _under(root, file), _under(root, pictures), str(root or ''))


def _maps(name: str, node: Mapping[str, Any], cfg: Config) -> LabelMapSplit | None:
    prefix = node.get('data_prefix')
    if not isinstance(prefix, Mapping) or not prefix.get('seg_map_path'):
        return None
    kind, root = dataset_class(node, cfg), node.get('data_root')
    file = node.get('ann_file')
    names = None
    if isinstance(file, str) and file and os.path.isfile(_under(root, file)):
        names = tuple(read_names(_under(root, file), None))
    ours = getattr(kind, '__module__', '').startswith('backbones.')
    return LabelMapSplit(
        name, _under(root, prefix.get('img_path')), _under(root, prefix['seg_map_path']),
        node.get('img_suffix', None if ours else _default(kind, 'img_suffix', '.jpg')),
        node.get('seg_map_suffix', '.png' if ours else _default(kind, 'seg_map_suffix', '.png')), names)


def _default(kind: Any, name: str, otherwise: Any) -> Any:
    """What a data set of another package takes for an argument that the config leaves out."""
    with contextlib.suppress(TypeError, ValueError):
        found = inspect.signature(kind).parameters.get(name)
        if found is not None and found.default is not found.empty:
            return found.default
    return otherwise


def _classes(node: Mapping[str, Any], cfg: Config) -> tuple[str, ...] | None:
    """The classes that a config states for a data set, or that its class fixes; None takes those of the files."""
    stated = (node.get('metainfo') or {}).get('classes')
    if stated is None:
        stated = (getattr(dataset_class(node, cfg), 'METAINFO', None) or {}).get('classes')
    return tuple(stated) if isinstance(stated, list | tuple) and stated else None


def _reduces_zero(node: Mapping[str, Any], cfg: Config) -> bool | None:
    if 'reduce_zero_label' in node:
        return bool(node['reduce_zero_label'])
    kind = dataset_class(node, cfg)
    if getattr(kind, '__module__', '').startswith('backbones.'):
        return True
    default = _default(kind, 'reduce_zero_label', None)
    return default if isinstance(default, bool) else None


def _classes_file(node: Mapping[str, Any], cfg: Config) -> str | None:
    if _classes(node, cfg):
        return ''
    name = node.get('classes_file', 'classes.txt')
    return _under(node.get('data_root'), name) if name else ''


def _input_size(cfg: Config) -> tuple[int, int] | None:
    """What the test pipeline resizes to: the sizes at which objects are found."""
    try:
        height, width = image_sizes(cfg).test
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return max(height, width), min(height, width)


def _anchors(cfg: Config) -> dict[str, Any] | None:
    """The RPN's anchors in the words of `check_objects`."""
    generator = next((node for node in _generators(cfg)), None)
    if generator is None or 'strides' not in generator:
        return None
    keys = ('strides', 'scales', 'octave_base_scale', 'scales_per_octave', 'ratios', 'base_sizes')
    anchors = {key: generator[key] for key in keys if generator.get(key) is not None}
    assigner = (((cfg.model.get('train_cfg') or {}).get('rpn') or {}).get('assigner') or {})
    if isinstance(assigner, Mapping) and 'min_pos_iou' in assigner:
        anchors['min_pos_iou'] = assigner['min_pos_iou']
    return anchors


def _generators(cfg: Config) -> Iterator[dict]:
    for node in dicts_in((cfg.model.get('rpn_head') or {}) if isinstance(cfg.get('model'), Mapping) else {}):
        if str(node.get('type', '')).endswith('AnchorGenerator'):
            yield node

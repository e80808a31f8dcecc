"""One setting for the classes: `classes = [...]` or `classes = 'annotations'` in a config, docs/classes.md.

`num_classes` of every head and `metainfo.classes` of every split follow from it. What contradicts it is refused.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS

from backbones.recipes.lookup import find
from backbones.signatures import argument_names

ANNOTATIONS = 'annotations'
SPLITS = ('train', 'val', 'test')
# Heads that count the classes of the data set; an RPN counts objects, a semantic branch of a detector counts stuff.
HEADS = ('bbox_head', 'mask_head', 'mask_iou_head', 'point_head', 'decode_head', 'auxiliary_head')
PER_PIXEL = ('decode_head', 'auxiliary_head')  # without a class of their own for the background
SETTING = "classes=['cat', 'dog'] or classes='annotations'"


def apply_classes(cfg: Config) -> list[str]:
    """Let heads and data sets of a composed config follow its `classes`, in place; nothing without that setting.

    Args:
        cfg: a composed config. `classes` is a list of names, or 'annotations': those of the training data, as its
            annotation file, its classes.txt or its data set names them.

    Returns:
        Lines for the log.

    Raises:
        ValueError: `classes` is no list of names; the heads disagree, a split names other classes, an annotation file
            lacks one, or a loss has another number of class weights.
    """
    given = cfg.get('classes')
    if given is None:
        return []
    names, source = (_of_training(cfg), 'the training data') if given == ANNOTATIONS else (_checked(given), 'classes')
    heads = list(_heads(cfg))
    _check_agreement(heads)
    datasets = [(place, node) for split in SPLITS for place, node in datasets_of(cfg, split)]
    for place, node in datasets:
        _check_dataset(place, node, names, source, cfg)
    before = {head.get('num_classes') for _, head in heads if 'num_classes' in head}
    for place, head in heads:
        _set_head(place, head, len(names))
    for _, node in datasets:
        node['metainfo'] = {**(node.get('metainfo') or {}), 'classes': tuple(names)}
    were = ', '.join(sorted(map(str, before - {len(names)})))
    changed = f' (before: {were})' if were else ''
    shown = ', '.join(names[:6]) + (', ...' if len(names) > 6 else '')
    return [
        f'{len(names)} classes from {source}: {shown}; num_classes={len(names)} in {len(heads)} heads{changed}, '
        f'metainfo.classes in {len(datasets)} data sets'
    ]


def _checked(given: Any) -> list[str]:
    """The names of the setting.

    Raises:
        ValueError: it is no list of different names.
    """
    if isinstance(given, str):
        raise ValueError(f'classes={given!r} is one word; give a list, classes=[{given!r}], or classes={ANNOTATIONS!r}')
    if not isinstance(given, Sequence) or not given or not all(isinstance(name, str) and name for name in given):
        raise ValueError(f'classes={given!r} is no list of names; give {SETTING}')
    twice = sorted({name for name in given if list(given).count(name) > 1})
    if twice:
        raise ValueError(f'classes names {twice[0]!r} {list(given).count(twice[0])} times; list every class once')
    return list(given)


# --- heads --------------------------------------------------------------------------------------------------


def _heads(cfg: Config) -> Iterator[tuple[str, dict]]:
    """Place and settings of every head that takes `num_classes`, nested anywhere in the model."""
    model = cfg.get('model') or {}
    yield from _heads_in(model.get('module', model), 'model', cfg.get('default_scope') or 'mmengine')


def _heads_in(node: Any, place: str, scope: str) -> Iterator[tuple[str, dict]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            inside = f'{place}.{key}'
            if key in HEADS:
                for name, head in _numbered(value, inside):
                    if isinstance(head, dict) and _counts_classes(head, scope):
                        yield name, head
            if key not in ('train_cfg', 'test_cfg', 'init_cfg'):
                yield from _heads_in(value, inside, scope)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _heads_in(value, f'{place}.{index}', scope)


def _numbered(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """One head, or one for each stage."""
    if isinstance(value, list | tuple):
        yield from ((f'{place}.{index}', head) for index, head in enumerate(value))
    else:
        yield place, value


def _counts_classes(head: Mapping[str, Any], scope: str) -> bool:
    """Whether a head states `num_classes`, or its class takes it (and has a default, such as COCO's 80)."""
    if 'num_classes' in head:
        return True
    kind = head.get('type')
    if isinstance(kind, str):
        own, _, name = kind.rpartition('.')
        kind = find(MODELS, own or scope, name)
    return kind is not None and 'num_classes' in argument_names(kind)


def _check_agreement(heads: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuse heads of which one has been edited and others not: it does not show which is meant."""
    stated = {place: head['num_classes'] for place, head in heads if 'num_classes' in head}
    if len(set(stated.values())) > 1:
        told = ', '.join(f'{place}.num_classes={number}' for place, number in stated.items())
        raise ValueError(
            f'the heads disagree about the number of classes ({told}) beside the setting classes; leave num_classes '
            'out of your config: it follows from classes'
        )


def _set_head(place: str, head: dict, number: int) -> None:
    """Give one head its number of classes, and mmseg's `out_channels` where they are the same fact."""
    outputs = head.get('out_channels') if place.split('.')[1] in PER_PIXEL else None
    if outputs is not None and outputs == head.get('num_classes'):
        head['out_channels'] = number
    elif outputs == 1 and number != 2:
        raise ValueError(
            f'{place}.out_channels=1 tells two classes apart and there are {number}; leave out_channels out'
        )
    elif outputs not in (None, 1, number):
        raise ValueError(f'{place}.out_channels={outputs} and there are {number} classes; leave out_channels out')
    head['num_classes'] = number
    for where, loss in _losses(head, place):
        weights = loss.get('class_weight')
        wanted = number + (place.split('.')[1] not in PER_PIXEL and not loss.get('use_sigmoid'))
        if isinstance(weights, list | tuple) and len(weights) != wanted:
            background = ' and one for the background' if wanted > number else ''
            raise ValueError(
                f'{where}.class_weight has {len(weights)} values for {number} classes; give one for each '
                f'class{background}, or leave class_weight out'
            )


def _losses(head: Mapping[str, Any], place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, value in head.items():
        if str(key).startswith('loss'):
            for where, loss in _numbered(value, f'{place}.{key}'):
                if isinstance(loss, Mapping):
                    yield where, loss


# --- data sets ----------------------------------------------------------------------------------------------


def datasets_of(cfg: Config, split: str) -> Iterator[tuple[str, dict]]:
    """Place and settings of the data sets of a split, those inside of wrappers in their stead."""
    loader = cfg.get(f'{split}_dataloader')
    if isinstance(loader, Mapping):
        yield from _leaves(loader.get('dataset'), f'{split}_dataloader.dataset')


def _leaves(node: Any, place: str) -> Iterator[tuple[str, dict]]:
    if isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _leaves(value, f'{place}.{index}')
    elif isinstance(node, dict):
        inside = [key for key in ('dataset', 'datasets') if isinstance(node.get(key), dict | list | tuple)]
        for key in inside:
            yield from _leaves(node[key], f'{place}.{key}')
        if not inside and 'type' in node:
            yield place, node


def _check_dataset(place: str, node: Mapping[str, Any], names: list[str], source: str, cfg: Config) -> None:
    """Refuse a data set that names other classes, or whose annotation file lacks one.

    Raises:
        ValueError: with the first class that differs, or the nearest name in the file.
    """
    stated, listed = (node.get('metainfo') or {}).get('classes'), _class_list(node, cfg)
    if stated is not None:
        stated = _names_in(Path(stated)) if isinstance(stated, str) else list(stated)
        remedy = 'Leave classes out of metainfo: it follows from the setting classes'
        _check_same(f'{place}.metainfo.classes', stated, source, names, remedy)
    if listed is not None:
        remedy = f"Correct the file or the setting; classes={ANNOTATIONS!r} takes the names of the file"
        _check_same(str(listed), _names_in(listed), source, names, remedy)
    palette = (node.get('metainfo') or {}).get('palette')
    if isinstance(palette, list | tuple) and len(palette) != len(names):
        raise ValueError(
            f'{place}.metainfo.palette has {len(palette)} colours for {len(names)} classes; leave it out, and one is '
            'made'
        )
    file = _annotation_file(node)
    if file is not None and file.is_file():  # the data set says which file is not there
        from backbones.data.coco import category_ids

        category_ids(read_categories(file), names, str(file))


def _check_same(place: str, stated: list[str], source: str, names: list[str], remedy: str) -> None:
    """Hold the names of one place against those of the setting, one by one."""
    if stated == names:
        return
    pairs = zip([*names, None], [*stated, None], strict=False)
    index, (ours, theirs) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    raise ValueError(
        f'{place} has {len(stated)} names and {source} has {len(names)}; the first that differs is number {index}: '
        f'{theirs!r} against {ours!r}. {remedy}'
    )


def _annotation_file(node: Mapping[str, Any]) -> Path | None:
    """The COCO annotation file of a data set, where it names one."""
    file = node.get('ann_file')
    if not isinstance(file, str) or not file.endswith('.json') or '://' in file:
        return None
    return Path(file if os.path.isabs(file) else os.path.join(node.get('data_root') or '', file))


def _of_training(cfg: Config) -> list[str]:
    """The classes of the training data, in the order of their labels.

    Raises:
        ValueError: there is no training data, or it does not name its classes, or two data sets name others.
    """
    found = {place: _own_classes(place, node, cfg) for place, node in datasets_of(cfg, 'train')}
    if not found:
        raise ValueError(f'classes={ANNOTATIONS!r} asks the training data, and there is no train_dataloader.dataset; '
                         "list them: classes=['cat', 'dog']")
    (first, names), *others = found.items()
    for place, theirs in others:
        if theirs != names:
            lost = [name for name in [*names, *theirs] if name not in theirs or name not in names]
            detail = f'{lost[0]!r} is in one only' if lost else 'their order differs'
            raise ValueError(
                f'classes={ANNOTATIONS!r}: {first} and {place} name other classes ({detail}); list those that '
                "are meant: classes=['cat', 'dog']"
            )
    return _checked(names)


def _own_classes(place: str, node: Mapping[str, Any], cfg: Config) -> list[str]:
    """What one data set names: metainfo, annotation file, classes.txt, or the names of its class."""
    stated = (node.get('metainfo') or {}).get('classes')
    if stated is not None:
        return _names_in(Path(stated)) if isinstance(stated, str) else _checked(stated)
    file = _annotation_file(node)
    if file is not None:
        if not file.is_file():
            raise ValueError(
                f'classes={ANNOTATIONS!r} asks {file} ({place}), which does not exist; put the data there or change '
                'the config; data/README.md shows the layouts'
            )
        return [str(category['name']) for category in sorted(read_categories(file), key=lambda entry: entry['id'])]
    listed = _class_list(node, cfg)
    if listed is not None:
        return _names_in(listed)
    known = (getattr(dataset_class(node, cfg), 'METAINFO', None) or {}).get('classes')
    if not known:
        raise ValueError(
            f'classes={ANNOTATIONS!r}: {place} ({node.get("type")}) does not name its classes; list them: '
            "classes=['cat', 'dog'], or write classes.txt beside the label maps"
        )
    return list(known)


def dataset_class(node: Mapping[str, Any], cfg: Config) -> Any:
    """The class of a data set; None where there is none of that name."""
    kind = node.get('type')
    if not isinstance(kind, str):
        return kind
    scope, _, name = kind.rpartition('.')
    return find(DATASETS, scope or cfg.get('default_scope') or 'mmengine', name)


def _class_list(node: Mapping[str, Any], cfg: Config) -> Path | None:
    """The classes.txt of a data set of label maps, where there is one."""
    kind = dataset_class(node, cfg)
    name = node.get('classes_file', 'classes.txt')
    if kind is None or 'classes_file' not in argument_names(kind) or not name:
        return None
    file = Path(node.get('data_root') or '') / name
    return file if file.is_file() else None


def _names_in(file: Path) -> list[str]:
    """The names in a file, one a line."""
    if not file.is_file():
        raise ValueError(f'classes={str(file)!r} is one string and no file; give a list of names')
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'the class names in {file} cannot be read ({error}); write one a line') from error
    return [line.strip() for line in lines if line.strip()]


def read_categories(file: Path) -> list[dict[str, Any]]:
    """The categories of a COCO annotation file, without reading all of it where they can be found at once.

    Raises:
        ValueError: it is no COCO annotation file.
    """
    found = _quick_categories(file)
    if found is None:
        from backbones.data.coco_files import load_coco

        found = load_coco(str(file))['categories']
    return found


def _quick_categories(file: Path) -> list[dict[str, Any]] | None:
    """The list behind the only key `categories` in a file; None where that is not sure."""
    key = b'"categories"'
    try:
        with file.open('rb') as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = content.find(key)
            if start < 0 or content.find(key, start + 1) >= 0:
                return None
            text = content[start + len(key) : start + len(key) + 10_000_000].decode('utf-8', 'ignore')
        found, _ = json.JSONDecoder().raw_decode(text.lstrip().removeprefix(':').lstrip())
    except (OSError, ValueError):  # an empty file, no JSON: the slow way says what is wrong
        return None
    plain = isinstance(found, list) and all(
        isinstance(entry, dict) and isinstance(entry.get('id'), int) and isinstance(entry.get('name'), str)
        for entry in found)
    return found if plain and found else None

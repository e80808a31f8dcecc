"""pycocotools' index of annotations, filled only with what its C code and faster-coco-eval's can take."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from backbones.data.coco_checks import sort_out
from backbones.data.coco_files import decode_json, load_coco, parse_json
from backbones.data.coco_masks import check_mask, check_total, run_totals
from backbones.missing import toolbox_needed

with toolbox_needed():
    from mmdet.datasets.api_wrappers import COCO


class CheckedCoco(COCO):
    """mmdet's `COCO` whose annotation file, and whose results in `loadRes`, are checked before they are used.

    Args:
        file: annotation file.
        masks: masks will be scored: every object that counts must have one.
        backend_args: where the file is.

    Raises:
        ValueError: naming the file, the annotation, and what is wrong.
    """

    def __init__(self, file: str, masks: bool = False, backend_args: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if not Path(file).is_file() and '://' not in str(file):
            raise ValueError(f'the annotation file {file} of the evaluator does not exist; correct ann_file')
        self.file = str(file)
        self.dataset = load_coco(self.file, backend_args)
        self._complete(masks)
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs
        self._masks: dict[int, dict] = {}

    def _complete(self, masks: bool) -> None:
        """Fill in what COCOeval asks for, and leave out parts of masks that are no polygons."""
        self.dataset.setdefault('info', {})
        images = {image['id']: image for image in self.dataset['images']}
        annotations, orphans, bare, hollow = [], [], [], []
        for entry in self.dataset['annotations']:
            image = images.get(entry['image_id'])
            if image is None:
                orphans.append(entry['id'])
                continue
            annotation = {'iscrowd': 0, **sort_out(entry, image)[0]}
            if not entry.get('segmentation'):
                bare.append(entry['id'])
            elif not annotation['segmentation']:
                hollow.append(entry['id'])
                size = [image['height'], image['width']]
                annotation['segmentation'] = dict(size=size, counts=[size[0] * size[1]])
            annotations.append(annotation)
        if masks and bare:
            raise ValueError(
                f'{len(bare)} annotations of {self.file} have no segmentation (ids '
                f"{', '.join(map(str, bare[:5]))}), so masks cannot be scored: add the masks, take them out, or score "
                "with metric='bbox' only"
            )
        if masks and hollow:
            text = 'annotations have no mask with a pixel: they are scored, and nothing matches them'
            self._say(f'{len(hollow)} {text}', hollow)
        if orphans:
            self._say(f'{len(orphans)} annotations are left out: no picture of their image_id is listed', orphans)
        if any(type(annotation['id']) is not int or annotation['id'] < 1 for annotation in annotations):
            # COCOeval writes the id of a match, and reads 0 as "no match"
            self._say('annotations are numbered anew for scoring: their ids are not all 1 or more', [])
            annotations = [{**annotation, 'id': number} for number, annotation in enumerate(annotations, start=1)]
        self.dataset['annotations'] = annotations

    def _say(self, text: str, ids: list) -> None:
        text += f'; ids {", ".join(map(str, ids[:5]))}' if ids else ''
        print_log(f'{self.file}: {text}', 'current', logging.WARNING)

    def annToRLE(self, ann: dict) -> dict:
        """Run lengths of an annotation; kept, because a training run asks for them after every epoch."""
        if self.anns.get(ann['id']) is not ann:
            return super().annToRLE(ann)
        if ann['id'] not in self._masks:
            self._masks[ann['id']] = super().annToRLE(ann)
        return self._masks[ann['id']]

    def loadRes(self, resFile: str | list) -> COCO:
        """Check COCO results (a file, or its entries) and index them.

        Raises:
            ValueError: naming the file, the entry, and what is wrong.
        """
        where = 'the results' if isinstance(resFile, list) else str(resFile)
        if not isinstance(resFile, list):
            resFile = read_entries(resFile)
        check_results(resFile, self.imgs, self.cats, where)
        return super().loadRes(resFile)


def read_entries(file: str | Path) -> Any:
    """What a file of results holds, unchecked but for being JSON.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        raw = Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f'the results {file} cannot be read: {error}; correct the path') from error
    return parse_json(decode_json(raw, str(file)), str(file))[0]


def check_results(entries: Any, images: Mapping[Any, dict], categories: Sequence | Mapping, where: str) -> None:
    """Check COCO detection results.

    Args:
        entries: list of `{image_id, category_id, score, bbox and/or segmentation}`.
        images: the pictures of the annotation file by id.
        categories: its category ids.
        where: how the message names the results.

    Raises:
        ValueError: naming the entry.
    """
    if not isinstance(entries, list):
        raise ValueError(f'{where} must be a list of detections, as tools/test.py --out writes it')
    strings = []
    for place, entry in enumerate(entries):
        name = f'entry {place} of {where}'
        if not isinstance(entry, dict) or not {'image_id', 'category_id', 'score'} <= entry.keys():
            raise ValueError(f'{name} must be an object with image_id, category_id and score')
        try:
            image = images.get(entry['image_id'])
            known = entry['category_id'] in categories
        except TypeError:  # a list, say
            image, known = None, False
        if image is None or not known:
            raise ValueError(
                f'{name} has image_id {entry["image_id"]!r:.40} and category_id {entry["category_id"]!r:.40}, which '
                'must both be in the annotation file; score it against the file it was predicted for'
            )
        _check_numbers(entry, name)
        mask = entry.get('segmentation')
        string = check_mask(_text(mask), image['height'], image['width'], name) if mask else None
        if string is not None:
            strings.append((name, image['height'] * image['width'], string))
    totals = run_totals([string for _, _, string in strings])
    for (name, pixels, _), total in zip(strings, totals, strict=True):
        check_total(total, pixels, name)


def _text(mask: Any) -> Any:
    """pycocotools encodes run lengths as bytes, and its `size` may be a tuple."""
    if isinstance(mask, dict) and isinstance(mask.get('counts'), bytes):
        mask = {**mask, 'counts': mask['counts'].decode('ascii', 'replace')}
    return mask


def _check_numbers(entry: dict, name: str) -> None:
    box = entry.get('bbox')
    if box is None and not entry.get('segmentation'):
        raise ValueError(f'{name} has neither bbox nor segmentation')
    try:
        finite = math.isfinite(entry['score']) and (box is None or (len(box) == 4 and all(map(math.isfinite, box))))
    except (TypeError, OverflowError):
        finite = False
    if not finite:
        raise ValueError(
            f'{name} has bbox {box!r:.80} and score {entry["score"]!r:.40}; they must be four finite numbers and one'
        )

"""A part of a COCO annotation file, for the first check of any detector: can it learn eight images by heart?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from backbones.files import write_json


def subset_coco(ann_file: str | Path, out: str | Path, count: int = 8, ids: Sequence[int] | None = None) -> list[int]:
    """Write the annotations of some images of `ann_file` to `out`.

    Args:
        ann_file: COCO instances file.
        out: file to write; it must not exist.
        count: number of images: the first annotated ones, by id.
        ids: the ids of the images instead, whether annotated or not.

    Returns:
        The image ids kept. All categories are kept, so labels stay what they were.

    Raises:
        ValueError: `ann_file` is missing or no COCO file, `out` exists, there are fewer annotated images, or no images
            of these ids.
    """
    ann_file, out = Path(ann_file), Path(out)
    if out.exists():
        raise ValueError(f'{out} exists; choose another file, nothing is overwritten')
    try:
        content = json.loads(ann_file.read_text())
        annotated = sorted({annotation['image_id'] for annotation in content['annotations']})
        images = content['images']
        there = {image['id'] for image in images}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{ann_file} is no readable COCO instances file: {error}') from error
    unknown = sorted(set(ids or ()) - there)
    if unknown:
        raise ValueError(
            f'--ids: {ann_file} has no image {", ".join(map(str, unknown))} ({len(there)} images); give others'
        )
    if not ids and not 1 <= count <= len(annotated):
        raise ValueError(
            f'--images {count}: {ann_file} has {len(annotated)} annotated images; choose 1 to that many, or --ids'
        )
    kept = set(ids or annotated[:count])
    content['images'] = [image for image in images if image['id'] in kept]
    content['annotations'] = [entry for entry in content['annotations'] if entry['image_id'] in kept]
    write_json(out, content)
    return sorted(kept)

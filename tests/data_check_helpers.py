"""Small data sets made by hand, for the tests of the data checks."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backbones.data_check.looking import Looker
from backbones.findings import Finding, Outcome

H, W = 24, 32


def picture(seed: int, height: int = H, width: int = W) -> np.ndarray:
    """A picture unlike any other seed's, (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    """Save a picture in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def encoded(kind: str, array: np.ndarray, **options: Any) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def labels(values: Sequence[int], height: int = H, width: int = W) -> np.ndarray:
    """A label map (H, W) with equal parts of `values`."""
    return np.resize(np.repeat(np.array(values, np.uint8), 7), (height, width))


def make_label_maps(root: Path, values: Sequence[int] = (0, 1, 2), classes: Sequence[str] | None = ('sky', 'road'),
                    count: int = 2) -> Path:
    """Write a sound data set in ADE20K's layout: `count` pairs in each of training and validation."""
    for place, split in enumerate(('training', 'validation')):
        for number in range(count):
            save(root / 'images' / split / f'{number}.png', picture(100 * place + number))
            save(root / 'annotations' / split / f'{number}.png', labels(values))
    if classes is not None:
        (root / 'classes.txt').write_text('\n'.join(classes) + '\n')
    return root


def make_coco(root: Path, count: int = 2, sizes: tuple[int, int] = (H, W)) -> Path:
    """Write a sound data set in COCO's layout: `count` pictures in each of train and val, with one object each."""
    height, width = sizes
    for place, split in enumerate(('train', 'val')):
        images, objects = [], []
        for number in range(1, count + 1):
            name = f'{100 * place + number}.png'
            save(root / 'images' / split / name, picture(100 * place + number, height, width))
            images.append(dict(id=number, file_name=name, height=height, width=width))
            objects.append(dict(id=number, image_id=number, category_id=1, bbox=[2, 3, 10, 12], area=120, iscrowd=0,
                                segmentation=[[2, 3, 12, 3, 12, 15, 2, 15]]))
        write_coco(root, split, images, objects)
    return root


def write_coco(root: Path, split: str, images: list[dict], objects: list[dict]) -> None:
    """Write one annotation file with the category 'thing'."""
    file = root / 'annotations' / f'instances_{split}.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(images=images, annotations=objects, categories=[dict(id=1, name='thing')])))


def looker(**options: Any) -> Looker:
    """A looker that works in this process and remembers nothing."""
    return Looker(**{'workers': 1, 'progress': False, **options})


def findings_of(outcomes: Sequence[Outcome] | Outcome, *severities: str) -> list[Finding]:
    """All findings, or those of some severities."""
    outcomes = [outcomes] if isinstance(outcomes, Outcome) else outcomes
    found = [finding for outcome in outcomes for finding in outcome.findings]
    return [finding for finding in found if not severities or finding.severity in severities]


def kinds(found: Sequence[Finding]) -> list[str]:
    """'severity: kind' of each."""
    return [f'{finding.severity}: {finding.kind}' for finding in found]

"""How many images the training sets of the recipes have, for what is worked out where the data is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Images that training sees: COCO's 117,266 have an annotated object, of 118,287.
# https://github.com/CSAILVision/ADE20K and https://cocodataset.org/#download
KNOWN_IMAGES = {'instances_train2017.json': (117_266, 118_287), 'ADEChallengeData2016': (20_210, 20_210)}


def known_images(dataset: Mapping[str, Any]) -> tuple[int, str] | None:
    """Images of an epoch of a `train_dataloader.dataset`, and the name they are known by; None for any other data."""
    place = f'{dataset.get("data_root", "")}/{dataset.get("ann_file", "")}'
    for name, (used, everything) in KNOWN_IMAGES.items():
        if name in place:
            filtered = (dataset.get('filter_cfg') or {}).get('filter_empty_gt', name != 'instances_train2017.json')
            return (used if filtered else everything), name
    return None

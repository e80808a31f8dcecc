"""The official rules of learning-rate and weight decay, by the names of parameters alone.

Nothing here comes from the package. A rule gives (factor on the learning rate, whether the parameter is decayed).
"""

from __future__ import annotations

import re


def convnext(name: str, ndim: int, rate: float, layers: int, decay_type: str) -> tuple[float, bool]:
    """`layers` is 6 or 12, as the official configs state it.

    https://github.com/facebookresearch/ConvNeXt/blob/048efce/object_detection/mmcv_custom/layer_decay_optimizer_constructor.py
    """
    found = re.match(r'backbone\.(downsample_layers|stages)\.(\d)\.(\d+)', name)
    place = layers + 1
    if found:
        kind, stage, block = found[1], int(found[2]), int(found[3])
        if decay_type == 'stage_wise':
            # every layer between the stages counts as the stem
            place = 0 if kind == 'downsample_layers' else stage + 1
        elif stage == 2 and kind == 'stages':
            place = 3 + block // 3
        else:
            place = ({0: 0, 1: 2, 2: 3} if kind == 'downsample_layers' else {0: 1, 1: 2}).get(stage, layers)
    return rate ** (layers + 1 - place), not (ndim == 1 or name.endswith('.bias'))


def beit(name: str, ndim: int, rate: float, layers: int) -> tuple[float, bool]:
    """`layers` is the number of blocks. Register tokens, which BEiT lacks, count with the class token.

    https://github.com/microsoft/unilm/blob/768a3c8/beit/semantic_segmentation/mmcv_custom/layer_decay_optimizer_constructor.py
    """
    place = layers + 1
    if re.match(r'backbone\.(cls_token|reg_token|mask_token|pos_embed|patch_embed)', name):
        place = 0
    elif found := re.match(r'backbone\.blocks\.(\d+)\.', name):
        place = int(found[1]) + 1
    return rate ** (layers + 1 - place), not (ndim == 1 or name.endswith('.bias'))


def vitdet(name: str, ndim: int, rate: float, layers: int, huge: bool = False) -> tuple[float, bool]:
    """`layers` is the number of blocks. Class and register tokens, which ViTDet lacks, count with the patches.

    Torch's LayerNorms, those of the blocks and after them, are not decayed; detectron2's own ones, over channels in
    pyramid, heads and bottlenecks, are, and so is every bias. ViT-H decays everything.
    https://github.com/facebookresearch/detectron2/blob/02b5c4e/detectron2/modeling/backbone/vit.py
    https://github.com/facebookresearch/detectron2/blob/02b5c4e/detectron2/solver/build.py
    https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/mask_rcnn_vitdet_h_75ep.py
    """
    place = layers + 1
    if name.startswith('backbone'):
        if re.match(r'backbone\.(pos_embed|patch_embed|cls_token|reg_token)', name):
            place = 0
        elif '.blocks.' in name and '.residual.' not in name:
            place = int(name.split('.blocks.')[1].split('.')[0]) + 1
    spared = '.pos_embed' in name or re.match(r'backbone\.(blocks\.\d+\.norm[12]|norm\d*)\.', name)
    return rate ** (layers + 1 - place), huge or not spared

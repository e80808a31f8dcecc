#!/usr/bin/env python
"""The memory model against measured training steps of small models; writes docs/memory.json.

python tools/benchmark_memory.py && python tools/update_docs.py     # docs/budget.md
python tools/benchmark_memory.py CASE ...                           # prints only

On a CPU every storage that PyTorch makes is followed; on a GPU its allocator tells the peak.
"""

import json
import time
import warnings
from pathlib import Path

from backbones.cli import ToolParser, run_tool

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / 'docs/memory.json'
CONVNEXT = dict(type='backbones.ConvNeXt', arch=dict(depths=(2, 2, 4, 2), dims=(64, 128, 256, 512)))
VIT = dict(type='backbones.VisionTransformer', arch=dict(embed_dim=192, depth=6, num_heads=3), with_cls_token=False)
VITDET = dict(VIT, window_size=14, global_attn_indexes=(2, 5), rel_pos='decomposed', img_size=512)
MAPS = [64, 128, 256, 512]
PYRAMID = dict(type='backbones.SimpleFPN', in_channels=192, out_channels=256)
ROIS, OBJECTS = 128, 60  # sampled of an image, so that a step is short; objects enough for all positives
LEVELS = dict(type='backbones.Feature2Pyramid', in_channels=192)
# name: model fragment, backbone, neck, (height, width), images, precision (mmcv's NMS takes no bf16 on a CPU)
CASES = {
    'mask-rcnn convnext': ('mask_rcnn', CONVNEXT, MAPS, (384, 512), 1, 'fp32'),
    'mask-rcnn convnext, 2 images': ('mask_rcnn', CONVNEXT, MAPS, (256, 384), 2, 'fp32'),
    'mask-rcnn convnext, with_cp': ('mask_rcnn', dict(CONVNEXT, with_cp=True), MAPS, (384, 512), 1, 'fp32'),
    'mask-rcnn convnext, frozen': ('mask_rcnn', dict(CONVNEXT, frozen_stages=3), MAPS, (384, 512), 1, 'fp32'),
    'cascade convnext': ('cascade_mask_rcnn', CONVNEXT, MAPS, (256, 384), 1, 'fp32'),
    'mask-rcnn vitdet': ('mask_rcnn', VITDET, PYRAMID, (512, 512), 1, 'fp32'),
    'mask-rcnn vitdet, with_cp': ('mask_rcnn', dict(VITDET, with_cp=True), PYRAMID, (512, 512), 1, 'fp32'),
    'upernet convnext': ('upernet', CONVNEXT, MAPS, (256, 256), 2, 'fp32'),
    'upernet convnext, with_cp': ('upernet', dict(CONVNEXT, with_cp=True), MAPS, (256, 256), 2, 'fp32'),
    'upernet convnext, bf16': ('upernet', CONVNEXT, MAPS, (256, 256), 2, 'bf16'),
    'upernet vit, bf16': ('upernet', dict(VIT, out_indices=(2, 3, 4, 5)), LEVELS, (256, 256), 2, 'bf16'),
    'upernet vit': ('upernet', dict(VIT, out_indices=(2, 3, 4, 5)), LEVELS, (256, 256), 2, 'fp32'),
    'upernet vit, with_cp': (
        'upernet', dict(VIT, out_indices=(2, 3, 4, 5), with_cp=True), LEVELS, (256, 256), 2, 'fp32'),
}


def model_config(name: str) -> dict:
    """The config of a case's model."""
    from mmengine.config import Config

    fragment, backbone, neck, size, _, _ = CASES[name]
    cfg = Config.fromfile(ROOT / f'configs/_base_/models/{fragment}.py').model
    channels = [192] * 4 if neck is LEVELS else neck
    if fragment == 'upernet':
        cfg.decode_head.in_channels, cfg.auxiliary_head.in_channels = channels, channels[2]
        cfg.data_preprocessor.size = size
    elif neck is MAPS:
        cfg.neck.in_channels = channels
    for stage in _stages(cfg.train_cfg.get('rcnn', [])):
        stage.sampler.num = ROIS
    cfg.backbone = backbone
    if isinstance(neck, dict):
        cfg.pop('neck', None)
        cfg.neck = neck
    return cfg


def _stages(rcnn: dict | list) -> list:
    """The training settings of the box heads."""
    return list(rcnn) if isinstance(rcnn, list | tuple) else [rcnn]


def compare(name: str) -> dict:
    """Simulate and measure one case."""
    import torch
    from mmengine.registry import MODELS, init_default_scope

    from backbones.flops import on_meta
    from backbones.measure import measured_peak
    from backbones.memory import training_memory

    fragment, _, _, size, batch, precision = CASES[name]
    init_default_scope('mmseg' if fragment == 'upernet' else 'mmdet')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    with on_meta():
        shapes = MODELS.build(model_config(name))
    memory = training_memory(shapes, size, batch, precision=precision, objects=OBJECTS, device=device)
    torch.manual_seed(0)
    model = MODELS.build(model_config(name)).to(device)
    measured = measured_peak(model, size, batch, precision=precision, objects=OBJECTS)
    return dict(case=name, size=list(size), images=batch, precision=precision, measured=measured, model=memory.peak,
                static=memory.weights + memory.optimiser, activations=memory.activations)


def main() -> int:
    parser = ToolParser(description=__doc__)
    parser.add_argument('cases', nargs='*', metavar='CASE', help='; '.join(CASES))
    args = parser.parse_args()
    unknown = [case for case in args.cases if case not in CASES]
    if unknown:
        raise ValueError(f'case {unknown[0]!r} is unknown; choose among: {"; ".join(CASES)}')
    warnings.filterwarnings('ignore')
    import torch

    print(f'{"case":<30}{"measured":>10}{"model":>10}{"ratio":>8}{"without static":>16}')
    rows = []
    for name in args.cases or CASES:
        start = time.perf_counter()
        row = compare(name)
        rows.append(row)
        beyond = (row['model'] - row['static']) / (row['measured'] - row['static'])
        print(f'{name:<30}{row["measured"] / 1e6:>7.1f} MB{row["model"] / 1e6:>7.1f} MB'
              f'{row["model"] / row["measured"]:>8.3f}{beyond:>16.3f}{time.perf_counter() - start:>5.0f} s', flush=True)
    if not args.cases:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'
        result = dict(what='peak memory of a training step', command='python tools/benchmark_memory.py',
                      device=device, torch=torch.__version__, cases=rows)
        RESULT.write_text(json.dumps(result, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    run_tool(main)

#!/usr/bin/env python
"""The memory model against the peaks that others published for the same recipes; on a CPU, in half a minute.

python tools/benchmark_published.py --out docs/published_memory.json && python tools/update_docs.py   # docs/budget.md

The model is that of `tools/budget.py` for one of several GPUs: no accumulation, the gradients once more in the buckets
of DDP. `needed` adds the surcharge for what is not counted.
"""

import math
from pathlib import Path

from backbones.cli import ToolParser, run_tool

ROOT = Path(__file__).resolve().parents[1]
MMDETECTION = dict(
    source='mmdetection', url='https://github.com/open-mmlab/mmdetection/blob/v2.28.2/configs/convnext/README.md')
PAPER = dict(source='paper, section 4', url='https://arxiv.org/abs/2201.03545')
DETECTRON2 = dict(
    source='detectron2', url='https://github.com/facebookresearch/detectron2/tree/02b5c4e/projects/ViTDet')
# name: config, images on one GPU, published GB, where
CASES = {
    'mask_convnext_t': ('convnext/mask-rcnn_convnext-t-in1k_3x_coco', 2, 7.3, MMDETECTION),
    'cascade_convnext_t': ('convnext/cascade-mask-rcnn_convnext-t-in1k_3x_coco', 2, 9.0, MMDETECTION),
    'cascade_convnext_s': ('convnext/cascade-mask-rcnn_convnext-s-in1k_3x_coco', 2, 12.3, MMDETECTION),
    'cascade_convnext_b': ('convnext/cascade-mask-rcnn_convnext-b-in1k_3x_coco', 2, 17.4, PAPER),
    'mask_vitdet_b': ('vit/mask-rcnn_vitdet-b-mae_100e_coco', 1, 10.9, DETECTRON2),
}


def compare(name: str) -> dict:
    """Published and simulated peak of one case, in bytes where not in GB."""
    from backbones.budget import CONTEXT_BYTES, FRAGMENTATION, budget

    config, images, published, source = CASES[name]
    options = {'total_batch': images, 'train_dataloader.batch_size': images}  # one pass a step: no accumulation
    memory = budget(ROOT / f'configs/{config}.py', options)['memory']
    peak = memory['peak'] + memory['gradients']
    return dict(
        config=f'configs/{config}.py', precision=memory['precision'], size=memory['size'], images=images,
        published_gb=published, **source, peak=peak, needed=math.ceil(peak * FRAGMENTATION) + CONTEXT_BYTES)


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument('--out', metavar='FILE', help='write the numbers as JSON')
    args = parser.parse_args()
    from backbones.files import write_json

    cases = {}
    for name in CASES:
        cases[name] = row = compare(name)
        print(f'{name:20}published {row["published_gb"]:5.1f} GB, model {row["peak"] / 2**30:5.1f} GiB, '
              f'with the surcharge {row["needed"] / 2**30:5.1f} GiB', flush=True)
    if args.out:
        write_json(args.out, dict(what='published peaks against the memory model', cases=cases), indent=1)


if __name__ == '__main__':
    run_tool(main)

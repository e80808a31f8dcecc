#!/usr/bin/env python
"""Write the first images of a COCO annotation file as a smaller one.

python tools/coco_subset.py data/coco_mini/annotations/instances_train2017.json data/coco8.json --images 8
"""

import argparse

from backbones.cli import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('ann_file', help='COCO instances file')
    parser.add_argument('out', help='file to write; it must not exist')
    parser.add_argument('--images', type=int, default=8, metavar='N', help='how many images (default 8)')
    args = parser.parse_args()
    from backbones.data.coco_subset import subset_coco

    kept = subset_coco(args.ann_file, args.out, args.images)
    print(f'{len(kept)} images written to {args.out}: ids {", ".join(map(str, kept))}')


if __name__ == '__main__':
    run_tool(main)

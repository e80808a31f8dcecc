#!/usr/bin/env python
"""Write some images of a COCO annotation file as a smaller one: the first annotated ones, or those of given ids.

python tools/coco_subset.py data/coco/annotations/instances_train2017.json data/first8.json --images 8
python tools/coco_subset.py data/coco/annotations/instances_train2017.json data/coco8.json --ids 9 25 30 34 36 42 49 61
"""

try:
    from backbones.cli import ToolParser, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument('ann_file', help='COCO instances file')
    parser.add_argument('out', help='file to write; it must not exist')
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--images', type=int, default=8, metavar='N', help='the first N annotated ones (default 8)')
    which.add_argument('--ids', type=int, nargs='+', metavar='ID', help='the images of these ids')
    args = parser.parse_args()
    from backbones.data.coco_subset import subset_coco

    kept = subset_coco(args.ann_file, args.out, args.images, args.ids)
    print(f'{len(kept)} images written to {args.out}: ids {", ".join(map(str, kept))}')


if __name__ == '__main__':
    run_tool(main)

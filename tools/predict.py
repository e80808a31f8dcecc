#!/usr/bin/env python
"""Run a detector or a segmenter on images without annotations: overlays, and COCO results or label PNGs.

python tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ --out predictions

A detector's results.json numbers images and categories 1, 2, ... as images.json beside it lists them, categories in the
order of the checkpoint's classes. (tools/test.py --out uses the ids of the annotation file.)

--precision bf16 (or fp32, equal within rounding) runs final weights, folded and packed; default: the config's
`precision`, else the model as it was trained. --compile compiles it, too, which takes a minute or more for each size.
"""

import argparse

from backbones.cli import add_overrides, add_precision, run_tool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of a checkpoint of this model')
    parser.add_argument('images', nargs='+', metavar='IMAGES', help='image files and folders of images')
    parser.add_argument('--out', required=True, metavar='DIR', help='new folder for what is predicted')
    parser.add_argument(
        '--score', type=float, default=0.3, help='objects scored below it, 0 to 1, are not drawn (default 0.3)')
    add_precision(parser)
    parser.add_argument(
        '--compile', action='store_true',
        help='compile the dense parts of the model, once for every size of a picture: for sizes that are few')
    add_overrides(parser)
    args = parser.parse_args()
    from backbones.evaluation.predict import predict

    done, failed = predict(
        args.config, args.checkpoint, args.images, args.out, args.score, args.cfg_options, args.precision, args.compile)
    print(f'{done} images predicted into {args.out}' + (f', {failed} could not be read' if failed else ''))
    return 1 if failed else 0


if __name__ == '__main__':
    run_tool(main)

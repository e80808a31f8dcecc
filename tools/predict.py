#!/usr/bin/env python
"""Run a detector or a segmenter on images without annotations: overlays, and COCO results or label PNGs.

python tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ --out predictions
"""

import argparse

from backbones.cli import run_tool


def main() -> int:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of a checkpoint of this model')
    parser.add_argument('images', nargs='+', metavar='IMAGES', help='image files and folders of images')
    parser.add_argument('--out', required=True, metavar='DIR', help='new folder for what is predicted')
    parser.add_argument('--score', type=float, default=0.3, help='objects below it are not drawn (default 0.3)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override config entries')
    args = parser.parse_args()
    from backbones.evaluation.predict import predict

    done, failed = predict(args.config, args.checkpoint, args.images, args.out, args.score, args.cfg_options)
    print(f'{done} images predicted into {args.out}' + (f', {failed} could not be read' if failed else ''))
    return 1 if failed else 0


if __name__ == '__main__':
    run_tool(main)

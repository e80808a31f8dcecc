#!/usr/bin/env python
"""Run a detector or a segmenter on images without annotations: overlays, and COCO results or label PNGs.

python tools/predict.py CHECKPOINT photo.jpg folder/ 'more/**/*.png' clip.mp4 --out predictions
python tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ --out predictions

CHECKPOINT is epoch_000012, epoch_12.pth, or the work folder of a run (its best checkpoint, else its newest). It knows
its config; CONFIG, a .py file, is for checkpoints of other programs and of older versions. docs/predict.md tells more.

A detector's results.json numbers images and categories 1, 2, ... as images.json beside it lists them, categories in the
order of the checkpoint's classes. (tools/test.py --out uses the ids of the annotation file.)

--precision bf16 (or fp32, equal within rounding) runs final weights, folded and packed; default: the config's
`precision`, else the model as it was trained. --compile compiles it, too, which takes a minute or more for each size.
"""

from __future__ import annotations

from pathlib import Path

try:
    from backbones.cli import ToolParser, add_overrides, add_precision, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def main() -> int:
    parser = ToolParser(
        description=__doc__, usage='%(prog)s [CONFIG] CHECKPOINT IMAGES [IMAGES ...] --out DIR [options]')
    parser.add_argument(
        'paths', nargs='+', metavar='[CONFIG] CHECKPOINT IMAGES',
        help='path of the config (.py; may be left out), path of a checkpoint of this model or of the work folder of a '
        'run, then image files, videos, folders of them and quoted patterns')
    parser.add_argument('--config', metavar='FILE', help='path of the config, in place of the first argument')
    parser.add_argument('--out', required=True, metavar='DIR', help='new folder for what is predicted')
    parser.add_argument('--resume', action='store_true', help='go on in --out; pictures that are done there are kept')
    parser.add_argument(
        '--score', type=float, default=0.3, help='objects scored below it, 0 to 1, are not drawn (default 0.3)')
    parser.add_argument('--every', type=int, default=1, metavar='N', help='of a video, each N-th frame (default 1)')
    parser.add_argument(
        '--batch', type=int, default=1, metavar='N',
        help='up to N pictures of one size go through the model together (default 1)')
    parser.add_argument(
        '--tile', metavar='SIZE',
        help='look at larger pictures in tiles of so many pixels, 1024 or 1333x800; a segmenter slides its window')
    parser.add_argument('--tile-overlap', metavar='N', help='of tiles: a fraction or pixels; default 0.25')
    parser.add_argument(
        '--no-tile-whole', dest='tile_whole', action='store_false', help='with --tile: do not look at the whole, too')
    add_precision(parser)
    parser.add_argument(
        '--compile', action='store_true',
        help='compile the dense parts of the model, once for every size of a picture: for sizes that are few')
    add_overrides(parser)
    args = parser.parse_intermixed_args()
    config, (checkpoint, *images) = args.config, args.paths
    if config is None and checkpoint.endswith('.py'):
        config, checkpoint, *images = *args.paths, *[None] * (len(args.paths) < 2)
    if not images:
        parser.error(f'{_missing(config, checkpoint)} missing: give [CONFIG] CHECKPOINT IMAGES')
    from backbones.evaluation.predict import predict
    from backbones.evaluation.tiles import read_tiles

    done, failed = predict(
        config, checkpoint, images, args.out, args.score, args.cfg_options, args.precision, args.compile,
        every=args.every, batch=args.batch, resume=args.resume,
        tiles=read_tiles(args.tile, args.tile_overlap, args.tile_whole))
    print(f'{done} images predicted into {args.out}' + (f', {failed} could not be read' if failed else ''))
    return 1 if failed else 0


def _missing(config: str | None, given: str | None) -> str:
    """What one path alone, behind a config, lacks."""
    if given is None:
        return f'{config} is a config; the checkpoint and the images are'
    from backbones.evaluation.checkpoint_config import holds_checkpoint

    if Path(given).exists() and not holds_checkpoint(given):
        return f'{given} holds no checkpoint; the checkpoint is'
    return 'the images are'


if __name__ == '__main__':
    run_tool(main)

#!/usr/bin/env python
"""Box AP of ways to merge what a detector finds in overlapping tiles: SAHI's NMS and GREEDYNMM, and ours.

python tools/benchmark_tiles.py work_dirs/demo/detection --out docs/tiles.json && python tools/update_docs.py

The test pictures of the run become mosaics of 16, and are enlarged twice: docs/predict.md has the table.
"""

try:
    from backbones.cli import ToolParser, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument('run', metavar='CHECKPOINT_FOLDER', help='work folder or checkpoint of a detector')
    parser.add_argument('--out', metavar='FILE', help='write the numbers as JSON')
    args = parser.parse_args()
    import torch

    from backbones.benchmark.machine import machine
    from backbones.benchmark.tiles import compare_mergings
    from backbones.files import write_json

    found = compare_mergings(args.run)
    print(f'tiles of {"x".join(map(str, found["tile"]))}; the pictures one by one: AP {found["alone"]:.3f}')
    for row in found['rows']:
        views = 'tiles and the whole' if row['whole'] else 'tiles only'
        scores = ', '.join(f'{way} {value:.3f}' for way, value in row['ap'].items())
        print(f'{row["number"]} {row["pictures"]}, {views}: {scores}')
    if args.out:
        write_json(args.out, dict(
            what='box AP by the way of merging detections of overlapping tiles',
            command='python tools/benchmark_tiles.py work_dirs/demo/detection',
            machine=machine(torch.device('cpu')), **found), indent=1)


if __name__ == '__main__':
    run_tool(main)

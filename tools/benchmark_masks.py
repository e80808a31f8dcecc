#!/usr/bin/env python
"""Time and memory from the mask head's output to COCO run lengths: mmdet's FCNMaskHead and encoding against ours.

python tools/benchmark_masks.py [CASE ...] [--pairs 7] [--out docs/masks.json]

Both heads get the same predictions (N, 80, 28, 28) and boxes; mmdet pastes bitmaps, which its CocoMetric encodes, ours
writes run lengths. Runs alternate, ratios are taken pair by pair. Memory is what a run adds to the process at its peak.
The run lengths of both are compared byte by byte. `bitmap` is our head where bitmaps are asked for, encoded as mmdet's.
"""

import time
from collections.abc import Callable
from typing import Any

from backbones.cli import ToolParser, run_tool

# name: instances, (H, W), pairs timed (None: --pairs); the large one is timed in the run whose memory is measured
CASES = {'coco': (100, (800, 1216), None), 'large': (300, (4000, 8000), 0)}
CLASSES, SIDE = 80, 28


def synthesised(number: int, size: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Blobs as logits (N, classes, M, M), boxes (N, 4) with sides from 1/100 to 4/5 of the image's, and labels (N,)."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([size[1], size[0]])
    extent = torch.exp(torch.rand(number, 2, generator=generator) * 4.38) * 0.01 * scale
    corner = torch.rand(number, 2, generator=generator) * (scale - extent)
    line = torch.linspace(-1, 1, SIDE)
    blob = 5 - 6 * (line[:, None] ** 2 + line**2)
    noise = F.interpolate(torch.randn(number, 1, 7, 7, generator=generator), (SIDE, SIDE), mode='bicubic') * 2
    labels = torch.randint(0, CLASSES, (number,), generator=generator)
    return (blob + noise).repeat(1, CLASSES, 1, 1), torch.cat([corner, corner + extent], dim=1), labels


def head_run(kind: str, number: int, size: tuple[int, int]) -> Callable[[], list[dict]]:
    """One run from predictions to run lengths, as the head and CocoMetric do it."""
    import torch
    from mmdet.registry import MODELS
    from mmdet.structures.mask import encode_mask_results
    from mmengine.config import ConfigDict
    from mmengine.structures import InstanceData

    name = 'FCNMaskHead' if kind == 'mmdet' else 'backbones.FCNMaskHead'
    head = MODELS.build(dict(type=name, num_convs=0, in_channels=1, conv_out_channels=1, num_classes=CLASSES))
    test = ConfigDict(mask_thr_binary=0.5)
    if kind == 'rle':
        test.mask_format = 'rle'
    logits, boxes, labels = synthesised(number, size)
    meta = dict(ori_shape=size, scale_factor=(1.0, 1.0))

    @torch.no_grad()
    def run() -> list[dict]:
        results = InstanceData(bboxes=boxes.clone(), labels=labels)
        masks = head.predict_by_feat((logits,), [results], [meta], test, rescale=True)[0].masks
        return masks if isinstance(masks, list) else encode_mask_results(masks.numpy())

    return run


def measured(run: Callable[[], list[dict]]) -> tuple[list[dict], dict]:
    """Result, seconds and memory of one run."""
    import torch

    from backbones.benchmark.peaks import memory_peak

    kept: list = []

    def once() -> None:
        start = time.perf_counter()
        kept.append(run())
        kept.append(time.perf_counter() - start)

    peak = memory_peak(once, torch.device('cpu'))
    mib = {name: value and round(value / 2**20, 1) for name, value in (('total', peak.total), ('added', peak.added))}
    return kept[0], dict(seconds=round(kept[1], 4), total_mib=mib['total'], added_mib=mib['added'])


def compare(name: str, pairs: int) -> list[dict]:
    """Measure one case: rows of ours against mmdet's."""
    from backbones.benchmark.measuring import Pairs, alternate

    number, size, own = CASES[name]
    pairs = pairs if own is None else own
    head_run('rle', 2, (64, 64))()  # loads what is loaded at first use
    runs = {kind: head_run(kind, number, size) for kind in ('rle', 'bitmap', 'mmdet')}
    facts: dict[str, dict] = {}
    results: dict[str, list] = {}
    for kind, run in list(runs.items()):
        try:
            if kind == 'mmdet':
                _check_room(number, size)
            results[kind], facts[kind] = measured(run)
        except (MemoryError, ValueError) as error:
            print(f'{name}, {kind}: {error}')
            facts[kind] = dict(refused=str(error))
    rows = []
    for kind in ('rle', 'bitmap'):
        row = dict(case=name, masks=number, size=list(size), path=kind, **facts[kind])
        if kind in results and 'mmdet' in results:
            timed = alternate(runs[kind], runs['mmdet'], repeats=pairs) if pairs else Pairs(
                (facts[kind]['seconds'],), (facts['mmdet']['seconds'],))
            row.update(equal=results[kind] == results['mmdet'], mmdet=facts['mmdet'], times=timed.as_dict())
        rows.append(row)
    return rows


def _check_room(number: int, size: tuple[int, int]) -> None:
    """Refuse mmdet's run where its bitmaps would fill the machine."""
    import re
    from pathlib import Path

    found = re.search(r'^MemAvailable:\s+(\d+) kB', Path('/proc/meminfo').read_text(), re.MULTILINE)
    needed = number * size[0] * size[1] * 1.2
    if found and int(found[1]) * 1024 < needed:
        raise ValueError(f'left out: its bitmaps need {needed / 1e9:.1f} GB, {int(found[1]) / 1e6:.1f} GB are free')


def line_of(row: dict) -> str:
    """One row of the table."""
    head = f'{row["case"]:<8}{row["masks"]:>4} x {row["size"][1]} x {row["size"][0]:<6}{row["path"]:<8}'
    if 'refused' in row:
        return head + 'refused'
    line = f'{head}{row["added_mib"] or 0:>9.1f} MiB'
    if 'times' not in row:
        return line + f'{row["seconds"]:>12.3f} s'
    times, peer = row['times'], row['mmdet']
    return (f'{line}{times["ours_ms"] / 1000:>10.3f} s | mmdet{peer["added_mib"] or 0:>9.1f} MiB'
            f'{times["peer_ms"] / 1000:>10.3f} s | {times["ratio"]:.1f} x ({times["ratio_25"]:.1f} to '
            f'{times["ratio_75"]:.1f}) faster, run lengths {"equal" if row["equal"] else "DIFFER"}')


def main() -> int:
    parser = ToolParser(description=__doc__)
    parser.add_argument('cases', nargs='*', metavar='CASE', help='; '.join(CASES))
    parser.add_argument('--pairs', type=int, default=7, help='pairs of runs that are timed (coco; the other: one)')
    parser.add_argument('--out', metavar='FILE', help='write the numbers as JSON')
    args = parser.parse_args()
    unknown = [case for case in args.cases if case not in CASES]
    if unknown or args.pairs < 1:
        raise ValueError(f'case {unknown[0]!r} is unknown; choose among: {", ".join(CASES)}' if unknown else
                         f'--pairs {args.pairs} measures nothing; give 1 or more')
    import torch
    from mmengine.registry import init_default_scope

    from backbones.benchmark.machine import machine
    from backbones.files import write_json

    init_default_scope('mmdet')
    rows = []
    for name in args.cases or CASES:
        new = compare(name, args.pairs)
        print('\n'.join(map(line_of, new)), flush=True)
        rows += new
    if args.out:
        write_json(args.out, dict(
            what='from predictions (N, 80, 28, 28) and boxes to COCO run lengths',
            command='python tools/benchmark_masks.py',
            machine=machine(torch.device('cpu')), rows=rows), indent=1)
    return int(not all(row.get('equal', True) for row in rows))


if __name__ == '__main__':
    run_tool(main)

"""The comparisons of docs/performance.md: which config does which work on which images, and what it has to reach."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONVNEXT = 'configs/convnext'
MASK_T = f'{CONVNEXT}/mask-rcnn_convnext-t-in1k_3x_coco.py'
MASK_B = f'{CONVNEXT}/mask-rcnn_convnext-b-in22k_3x_coco.py'
UPERNET_T = f'{CONVNEXT}/upernet_convnext-t-in1k_160k_ade20k-512.py'
VITDET_B = 'configs/vit/mask-rcnn_vitdet-b-mae_100e_coco.py'


@dataclass(frozen=True)
class Case:
    """One run of tools/benchmark.py.

    Attributes:
        name: for people.
        config: path from the root of the project.
        what: backbone, inference or train.
        size: HxW.
        against: peers.
        targets: variant -> how many times as fast as every peer ours is meant to be.
        quick: whether the short run has it.
    """

    name: str
    config: str
    what: str
    size: str
    against: tuple[str, ...]
    targets: dict[str, float]
    quick: bool = False


CASES = (
    Case('ConvNeXt-T', MASK_T, 'backbone', '512x512', ('hf', 'timm', 'mmpretrain', 'stock'), {'bf16': 2.7}, True),
    Case('ConvNeXt-T', MASK_T, 'backbone', '800x1280', ('hf', 'timm', 'mmpretrain', 'stock'), {'bf16': 2.7}),
    Case('ConvNeXt-B', MASK_B, 'backbone', '512x512', ('hf', 'timm', 'mmpretrain', 'stock'), {'bf16': 2.7}),
    Case('ConvNeXt-B', MASK_B, 'backbone', '800x1280', ('hf', 'timm', 'mmpretrain', 'stock'), {'bf16': 2.7}),
    Case('ViTDet-B', VITDET_B, 'backbone', '1024x1024', ('hf',), {'bf16': 3.2}),
    Case('UperNet ConvNeXt-T', UPERNET_T, 'inference', '512x512', ('stock',), {'bf16': 2.3}, True),
    Case('Mask R-CNN ConvNeXt-T', MASK_T, 'inference', '800x1216', ('stock',), {'bf16': 2.3}, True),
    Case('UperNet ConvNeXt-T', UPERNET_T, 'train', '512x512', ('stock',), {'bf16': 1.7, 'fp32': 1.1}),
    Case('Mask R-CNN ConvNeXt-T', MASK_T, 'train', '800x1216', ('stock',), {'bf16': 1.7, 'fp32': 1.1}, True),
)


def run_suite(root: Path, *, quick: bool, only: str | None = None, repeats: int = 7,
              say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the cases one after the other, each in a process of its own: what one leaves in memory slows no other.

    Args:
        root: of the project.
        quick: the short run has fewer cases.
        only: cases whose name, size or work contains this.
        repeats: pairs of runs of each comparison, at least three.
        say: takes the report of each case.

    Returns:
        `machine` and `rows`, each with the case's `name` and, where there is one, its `target`.

    Raises:
        ValueError: no case is left.
        RuntimeError: a case failed.
    """
    cases = [case for case in CASES if (case.quick or not quick) and (
        only is None or only in f'{case.name} {case.what} {case.size}')]
    if not cases:
        names = ', '.join(f'{case.name} {case.what} {case.size}' for case in CASES if case.quick or not quick)
        raise ValueError(f'--only {only}: no case has that in its name; there are {names}')
    rows, machine = [], None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'report.json'
        for case in cases:
            done = subprocess.run(
                [sys.executable, 'tools/benchmark.py', case.config, '--what', case.what, '--size', case.size,
                 '--variants', 'fp32', 'bf16', '--against', *case.against, '--repeats', str(repeats), '--seconds', '60',
                 '--json', str(file)],
                cwd=root, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f'{case.name}, {case.what} {case.size}: {done.stderr.strip()[-500:]}')
            say(done.stdout)
            report = json.loads(file.read_text())
            machine = machine or report['machine']
            rows += [dict(row, name=case.name, target=case.targets.get(row['ours'])) for row in report['rows']]
    return dict(machine=machine, rows=rows)


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """A report with the rows of a newer one in place of those of the same comparison."""
    def key(row: dict[str, Any]) -> tuple:
        return row['name'], row['what'], *row['size'], row['ours'], row['against']

    fresh = {key(row): row for row in new['rows']}
    kept = [fresh.pop(key(row), row) for row in old.get('rows', [])]
    return dict(new, rows=[*kept, *fresh.values()])

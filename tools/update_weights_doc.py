#!/usr/bin/env python
"""Write the table of docs/weights.md: every reference file loaded, its features held against those of its source.

python tools/update_weights_doc.py [--references DIR ...] [--check]

A reference is a folder with a checkpoint as published, meta.json, and io.safetensors with inputs and outputs of the
source's own code. Those of tests/references are used, and those of ../shared/references where they are.
"""

import argparse
import json
import re
from pathlib import Path

from backbones.cli import run_tool

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / 'tests/references', ROOT.parent / 'shared/references')
DOC = ROOT / 'docs/weights.md'


def measure(folder: Path) -> dict:
    """Load one reference as a user would and compare every case.

    The heads and the activation, which no tensor of a toy shows, come from meta.json.
    """
    import torch
    from safetensors.torch import load_file

    import backbones
    from backbones.weights.load import load_pretrained

    meta = json.loads((folder / 'meta.json').read_text())
    tensors = load_file(folder / 'io.safetensors')
    checkpoint = next(folder.glob('checkpoint.*'))
    overrides = {}
    if meta['family'] == 'vit':
        overrides = dict(num_heads=meta['arch']['num_heads'], norm_eps=meta['arch']['norm_eps'])
        if meta['arch']['activation'] == 'quick_gelu':
            overrides['act'] = 'quick_gelu'
    else:
        overrides = dict(output_norm=False)
    if 'block_indexes' in meta:
        overrides['out_indices'] = meta['block_indexes']
    model = backbones.load_backbone(checkpoint, **overrides)
    coverage = load_pretrained(model, checkpoint)
    errors = []
    for case, facts in meta['cases'].items():
        if case in ('student', 'ema') or (meta['layout'], case) == ('vit_hf_beit', 'b'):
            continue  # other weights of the same file; a table resized as Hugging Face does, not as BEiT
        images = tensors[f'{facts["tensor_prefix"]}input']
        if 'vit_dinov3' in meta['layout']:  # it cuts off what its patches do not divide, we pad
            images = images[..., : images.shape[2] // 16 * 16, : images.shape[3] // 16 * 16]
        with torch.no_grad():
            outputs = model(images)
        errors += [
            (output - tensors[f'{facts["tensor_prefix"]}out{i}']).abs().max().item() for i, output in enumerate(outputs)
        ]
    return dict(
        source=f'{meta["source"].get("repo", "")}, {meta.get("kind", "")}'.strip(', '),
        file=checkpoint.suffix,
        layout=coverage.layout,
        filled=f'{len(coverage.filled)}/{len(coverage.elements)}',
        fresh=coverage.fresh,
        error=max(errors),
        tolerance=meta['tolerance']['atol'],
    )


def table(folders: list[Path]) -> str:
    """One row per reference."""
    heads = ('reference', 'source', 'recognised as', 'filled', 'largest feature error', 'tolerance')
    rows = [f'| {" | ".join(heads)} |', '|---|---|---|---|---|---|']
    found = {path.parent.name: path.parent for folder in reversed(folders) for path in folder.glob('*/meta.json')}
    for name in sorted(found):
        row = measure(found[name])
        filled = row['filled'] + (f' (computed: {", ".join(row["fresh"])})' if row['fresh'] else '')
        rows.append(
            f'| {name} (`{row["file"]}`) | {row["source"]} | {row["layout"]} | {filled} | {row["error"]:.0e} | '
            f'{row["tolerance"]:g} |'
        )
    return '\n'.join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--references', nargs='+', type=Path, help='folders of references instead of those above')
    parser.add_argument('--check', action='store_true', help='write nothing; exit 1 if the layouts differ')
    args = parser.parse_args()
    new = table([path for path in (args.references or FOLDERS) if path.is_dir()])
    text = DOC.read_text()
    filled, count = re.subn(
        r'(<!-- layouts -->\n).*?(<!-- /layouts -->)', lambda match: f'{match[1]}{new}\n{match[2]}', text, flags=re.S)
    if count != 1:
        raise ValueError(f'{DOC} needs <!-- layouts --> and <!-- /layouts --> once; they are there {count} times')
    if args.check:
        return int(filled != text)
    DOC.write_text(filled)
    return 0


if __name__ == '__main__':
    run_tool(main)

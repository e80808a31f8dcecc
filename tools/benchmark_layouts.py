#!/usr/bin/env python
"""Every reference file loaded as a user would, its features held against those of its source.

python tools/benchmark_layouts.py --out docs/layouts.json && python tools/update_docs.py   # docs/weights.md

A reference is a folder with a checkpoint as published, meta.json, and io.safetensors with inputs and outputs of the
source's own code. Those of tests/references are used, and those of ../shared/references where they are.
"""

import json
from pathlib import Path

from backbones.cli import ToolParser, run_tool

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / 'tests/references', ROOT.parent / 'shared/references')


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
        error=float(f'{max(errors):.1e}'),
        tolerance=meta['tolerance']['atol'],
    )


def main() -> int:
    parser = ToolParser(description=__doc__)
    parser.add_argument('--references', nargs='+', type=Path, help='folders of references instead of those above')
    parser.add_argument('--out', metavar='FILE', help='write the numbers as JSON')
    args = parser.parse_args()
    from backbones.files import write_json

    folders = [folder for folder in (args.references or FOLDERS) if folder.is_dir()]
    found = {path.parent.name: path.parent for folder in reversed(folders) for path in folder.glob('*/meta.json')}
    if not found:
        raise ValueError('no */meta.json lies below --references; name folders like tests/references')
    rows = {name: measure(found[name]) for name in sorted(found)}
    for name, row in rows.items():
        print(f'{name:32}{row["filled"]:>9}{row["error"]:>10.0e}  {row["layout"]}')
    if args.out:
        write_json(args.out, dict(what='files of every layout, loaded', references=rows), indent=1)
    return int(any(row['error'] > row['tolerance'] for row in rows.values()))


if __name__ == '__main__':
    run_tool(main)

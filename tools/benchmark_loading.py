#!/usr/bin/env python
"""Time and memory of loading a large checkpoint, against plain torch on the same file.

python tools/benchmark_loading.py [convnext-xlarge vit-huge] [--runs 5]     # docs/weights.md quotes what it prints

Each run is a process of its own that has built the backbone and loaded something small; the variants alternate, and
medians and ratios are printed. `torch` is torch.load(mmap=True) and load_state_dict, `ours` is load_pretrained on the
same file. Memory is what the process holds of its own (not of the file) after the load, beyond the built backbone.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from backbones.cli import ToolParser, run_tool

MODELS = {
    'convnext-xlarge': "ConvNeXt('xlarge', output_norm=False, layer_scale_init_value=1.0)",
    'vit-huge': "VisionTransformer('huge', patch_size=14, out_norm='last')",
}
CHILD = """
import json, sys, time, torch
from backbones.convnext import ConvNeXt
from backbones.vit import VisionTransformer
from backbones.weights.load import load_pretrained
from mmengine.logging import MMLogger

def held():  # kB of this process alone: anonymous pages, now and at most
    lines = open('/proc/self/status').read().split('\\n')
    read = {line.split(':')[0]: int(line.split()[1]) for line in lines if line.startswith(('RssAnon', 'VmHWM'))}
    return read['RssAnon']

torch.manual_seed(0)
model, path, variant = eval(sys.argv[1]), sys.argv[2], sys.argv[3]
for value in model.state_dict().values():
    value.zero_()  # memory is taken when it is written, so that is not part of the load
if variant == 'write':
    torch.save({'model': model.state_dict()}, path)
    sys.exit()
MMLogger.get_instance('quiet', log_level='ERROR')
torch.load(path, mmap=True)
small = ConvNeXt(dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)), output_norm=False)
torch.save({'model': small.state_dict()}, path + '.small' + variant)
load_pretrained(small, path + '.small' + variant)  # the first load of a process reads the index of names
before, start = held(), time.perf_counter()
if variant == 'torch':
    model.load_state_dict(torch.load(path, mmap=True)['model'])
else:
    load_pretrained(model, path)
seconds = time.perf_counter() - start
values = sum(value.numel() * value.element_size() for value in model.state_dict().values())
print(json.dumps(dict(seconds=seconds, extra=(held() - before) * 1024 / values, gigabytes=values / 1e9)))
"""


def run(model: str, path: Path, variant: str) -> dict:
    """One load in a process of its own."""
    command = [sys.executable, '-c', CHILD, MODELS[model], str(path), variant]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f'{variant} on {model} failed: {done.stderr.strip().splitlines()[-1]}')
    return json.loads(done.stdout.splitlines()[-1]) if variant != 'write' else {}


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument('models', nargs='*', metavar='MODEL', help=', '.join(MODELS))
    parser.add_argument('--runs', type=int, default=5, help='of each variant')
    args = parser.parse_args()
    print(f'{"model":<16}{"GB":>6}{"torch":>9}{"ours":>9}{"ratio":>8}{"extra memory, torch":>22}{"ours":>7}')
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models or MODELS:
            path = Path(folder) / f'{model}.pth'
            run(model, path, 'write')
            runs = {variant: [] for variant in ('torch', 'ours')}
            for _ in range(args.runs):
                for variant, results in runs.items():
                    results.append(run(model, path, variant))
            seconds = {key: statistics.median(r['seconds'] for r in results) for key, results in runs.items()}
            extra = {key: statistics.median(r['extra'] for r in results) for key, results in runs.items()}
            print(
                f'{model:<16}{runs["ours"][0]["gigabytes"]:>6.2f}{seconds["torch"]:>8.2f}s{seconds["ours"]:>8.2f}s'
                f'{seconds["ours"] / seconds["torch"]:>8.2f}{extra["torch"]:>21.2f}x{extra["ours"]:>6.2f}x', flush=True)
            path.unlink()


if __name__ == '__main__':
    run_tool(main)

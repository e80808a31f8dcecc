#!/usr/bin/env python
"""Time and memory of loading, checking and indexing a synthesised annotation file of the size of COCO train2017.

    python tools/benchmark_annotations.py [--fraction 0.1] [--out docs/annotations.json]

With `--out docs/annotations.json`, `python tools/update_docs.py` then renews docs/data_faults.md.

118,287 pictures, 860,001 objects, 1 in 86 a crowd, and 450 MB, as COCO has. Each row is
measured in a process of its own; memory is the peak of its resident set, less that of the empty process.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from backbones.cli import ToolParser, run_tool
from backbones.files import write_json

IMAGES, OBJECTS, CATEGORIES, CROWDS, POINTS = 118_287, 860_001, 80, 86, 25
ROWS = {
    'json.load': 'import json\nload = lambda: json.load(open(file))',
    'load and check': 'from backbones.data.coco_files import load_coco\nload = lambda: load_coco(file)',
    'load, checked before': 'from backbones.data.coco_files import load_coco\nload = lambda: load_coco(file)',
    'check alone': (
        'from backbones.data import coco_checks, coco_files\n'
        'content, _ = coco_files.parse_json(open(file).read(), file)\n'
        'load = lambda: coco_checks.check_content(content, file)'
    ),
}
MEASURE = """
import json, resource, sys, time
file = sys.argv[1]
{setup}
empty = {empty}
start = time.perf_counter()
kept = load()
seconds = time.perf_counter() - start
print(json.dumps(dict(seconds=seconds, memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - empty)))
"""
PEAK = 'resource.getrusage(resource.RUSAGE_SELF).ru_maxrss'


def synthesise(file: Path, fraction: float) -> None:
    """Write the annotation file piece by piece: it is larger than what it takes to write it."""
    draw = random.Random(0)
    images, objects = round(IMAGES * fraction), round(OBJECTS * fraction)
    with file.open('w') as out:
        out.write('{"images": [')
        for n in range(images):
            image = dict(id=n, file_name=f'{n:012d}.jpg', height=480, width=640, license=1, coco_url='http://x/y.jpg')
            out.write((', ' if n else '') + json.dumps(image))
        out.write('], "categories": ' + json.dumps([dict(id=n + 1, name=f'class {n}') for n in range(CATEGORIES)]))
        out.write(', "annotations": [')
        for n in range(objects):
            out.write((', ' if n else '') + json.dumps(_object(n, images, draw)))
        out.write(']}')


def _object(number: int, images: int, draw: random.Random) -> dict:
    x, y, w, h = draw.uniform(0, 400), draw.uniform(0, 300), draw.uniform(8, 200), draw.uniform(8, 150)
    crowd = number % CROWDS == 0
    if crowd:
        counts = [1000] * 306 + [640 * 480 - 306_000]
        mask = dict(size=[480, 640], counts=counts)
    else:
        points = [(x + w * draw.random(), y + h * draw.random()) for _ in range(draw.randint(4, 2 * POINTS - 4))]
        mask = [[round(value, 2) for point in points for value in point]]
    return dict(
        id=number + 1, image_id=number % images, category_id=number % CATEGORIES + 1, iscrowd=int(crowd),
        area=round(w * h / 2, 4), bbox=[round(value, 2) for value in (x, y, w, h)], segmentation=mask,
    )


def measure(setup: str, file: Path, cache: Path) -> dict:
    """Run one row in a fresh process."""
    code = MEASURE.format(setup=setup, empty=PEAK)
    env = {**os.environ, 'XDG_CACHE_HOME': str(cache)}
    done = subprocess.run([sys.executable, '-c', code, str(file)], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f'the measurement failed: {done.stderr.strip().splitlines()[-1]}')
    row = json.loads(done.stdout.splitlines()[-1])  # some packages greet
    unit = 1 if sys.platform == 'darwin' else 1024  # of ru_maxrss
    return dict(seconds=round(row['seconds'], 2), memory_mib=round(row['memory'] * unit / 2**20, 1))


def main() -> None:
    """Measure every row, print it, and write it where asked."""
    parser = ToolParser(description=__doc__)
    parser.add_argument('--fraction', type=float, default=1.0, help='of the size of COCO train2017')
    parser.add_argument('--out', help='JSON file to write')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'instances.json'
        started = time.perf_counter()
        synthesise(file, options.fraction)
        print(f'{file.stat().st_size / 2**20:.0f} MiB written in {time.perf_counter() - started:.0f} s')
        rows = {}
        for name, setup in ROWS.items():
            rows[name] = measure(setup, file, Path(folder) / 'cache')
            print(f'{name:24}{rows[name]["seconds"]:8.2f} s{rows[name]["memory_mib"]:10.1f} MiB', flush=True)
        result = dict(fraction=options.fraction, file_mib=round(file.stat().st_size / 2**20, 1), rows=rows)
    if options.out:
        write_json(options.out, result, indent=2)


if __name__ == '__main__':
    run_tool(main)

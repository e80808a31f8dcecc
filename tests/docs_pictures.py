"""Pictures of a report for the documentation: parts of the page as a reader sees them.

PYTHONPATH=. python tests/docs_pictures.py work_dirs/run/report.html docs/report.png --parts summary training
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from browser_helpers import open_page
from PIL import Image

from backbones.files import write_bytes

COLOURS = 256  # of the PNG: text, lines and bars need no more, and photographs are still fair


def picture(page_file: Path, parts: list[str], width: int, height: int, dark: bool) -> bytes:
    """A PNG of the parts with these ids, from the top of the first to the bottom of the last or `height` pixels on."""
    with open_page(page_file, width=width, dark=dark) as (page, complaints):
        for _ in range(2):  # charts are drawn, and pictures read, when they come near
            for top in range(0, page.evaluate('document.documentElement.scrollHeight'), 600):
                page.evaluate(f'window.scrollTo(0, {top})')
                page.wait_for_timeout(100)
        if missing := [part for part in parts if not page.locator(f'#{part}').count()]:
            raise ValueError(f'{page_file} has no part {missing[0]!r}')
        page.set_viewport_size(dict(width=width, height=height))  # what is out of sight is not drawn
        page.evaluate(f'scrollTo(0, document.getElementById({parts[0]!r}).getBoundingClientRect().top + scrollY - 8)')
        page.wait_for_timeout(1000)
        boxes = [page.locator(f'#{part}').bounding_box() for part in parts]
        top, bottom = boxes[0]['y'], boxes[-1]['y'] + boxes[-1]['height']
        clip = dict(x=boxes[0]['x'] - 8, y=max(top - 8, 0), width=boxes[0]['width'] + 16,
                    height=min(bottom - max(top - 8, 0) + 8, height))
        if complaints:
            raise ValueError(f'{page_file}: {complaints[0]}')
        return page.screenshot(clip=clip)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('page', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--parts', nargs='+', required=True, metavar='ID')
    parser.add_argument('--width', type=int, default=1280)
    parser.add_argument('--height', type=int, default=4000, help='pixels at most')
    parser.add_argument('--dark', action='store_true')
    args = parser.parse_args()
    image = Image.open(io.BytesIO(picture(args.page, args.parts, args.width, args.height, args.dark)))
    small = io.BytesIO()
    few = image.convert('RGB').quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(small, 'PNG', optimize=True)
    write_bytes(args.out, small.getvalue())


if __name__ == '__main__':
    main()

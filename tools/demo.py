#!/usr/bin/env python
"""Generate the demo data, train and test a detector and a segmenter on it, and show the result (`make demo`)."""

import json
from pathlib import Path

try:
    from backbones.cli import ToolParser, run_tool
except ImportError as error:
    from outside import explained

    raise explained(error) from None


def main() -> None:
    parser = ToolParser(description=__doc__)
    parser.add_argument('--setup-json', help='file with the seconds that the set-up took, written by the Makefile')
    parser.add_argument('--data-only', action='store_true', help='only make the data set, in data/demo')
    args = parser.parse_args()
    if args.data_only:
        from backbones.data.demo import generate_demo

        print(f'demo data: {generate_demo(Path("data/demo"))}')
        return
    from backbones.demo import format_summary, run_demo

    setup = Path(args.setup_json) if args.setup_json else None
    seconds = json.loads(setup.read_text()).get('seconds') if setup and setup.is_file() else None
    summary = run_demo(seconds)
    print(f'\n{format_summary(summary)}\n')
    print(f'training, testing and drawing took {summary["seconds"]["train_and_test"]:.0f} s')
    print('pictures:  work_dirs/demo/demo.png')
    print('           work_dirs/demo/detection/predictions/overlays/')
    print('           work_dirs/demo/segmentation/predictions/overlays/')
    print('numbers:   work_dirs/demo/summary.json')
    print('reports:   work_dirs/demo/detection/report.html')
    print('           work_dirs/demo/segmentation/report.html')


if __name__ == '__main__':
    run_tool(main)

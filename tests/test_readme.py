"""The README's tables are what the configs and the measured runs say."""

from __future__ import annotations

import re
import subprocess
import sys

from conftest import ROOT


def test_the_tables_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, 'tools/update_readme.py', '--check'], cwd=ROOT, capture_output=True, text=True,
        env={'PYTHONPATH': str(ROOT), 'PATH': ''})
    assert done.returncode == 0, done.stderr or 'run python tools/update_readme.py'


def test_every_picture_and_page_the_readme_links_is_there() -> None:
    targets = re.findall(r'\]\(([^)#:]+)\)', (ROOT / 'README.md').read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_iou_stands_in_percent_with_its_sign_everywhere() -> None:
    text = (ROOT / 'README.md').read_text()
    measured = [part for name in ('times', 'results') for part in text.split(f'<!-- {name} -->')[1].split('<!-- /')[:1]]
    values = re.findall(r'mIoU (?:>= )?[\d.]+( %)?', ' '.join(measured))
    assert len(values) == 3 and all(values)

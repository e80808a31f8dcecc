"""What the text of a config shows."""

from __future__ import annotations

import pytest
from conftest import ROOT

from backbones.preflight.config_file import assigned_twice


def found(tmp_path, text: str) -> list[str]:
    file = tmp_path / 'config.py'
    file.write_text(text)
    return [f'{finding.field} {finding.id}' for finding in assigned_twice(file)]


def test_a_dict_that_a_later_one_replaces_is_found_with_its_line(tmp_path):
    assert found(tmp_path, "model = dict(backbone=1)\nlr = 1\nmodel = dict(neck=2)\nmodel = {'head': 3}\n") == [
        'model 3', 'model 4']


@pytest.mark.parametrize('text', [
    'lr = 1\nlr = 2\n', 'model = dict(a=1)\nmodel["b"] = 2\n', 'a = dict(x=1)\nb = dict(x=1)\n', 'model = dict(', ''])
def test_other_texts_are_silent(tmp_path, text):
    assert found(tmp_path, text) == []


def test_no_shipped_config_assigns_twice():
    assert [finding for path in (ROOT / 'configs').rglob('*.py') for finding in assigned_twice(path)] == []

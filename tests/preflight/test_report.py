"""What a preflight says in all: states, verdict, exit codes, JSON; and the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from backbones.findings import Finding, Outcome, finding_of, run_check, state_of
from backbones.preflight.html import SHOWN, groups_of, write_page
from backbones.preflight.report import Report

WRONG = Finding(
    'error', 'box outside', 'annotation 2 reaches beyond <its> picture', 'correct it', 'a.json', 2, 'bbox', [1])
ODD = Finding('warning', 'workers', 'the loader is slow', 'take more workers')


def report(*outcomes: Outcome) -> Report:
    return Report('configs/some.py', 'a machine', outcomes=list(outcomes), text='model = dict()')


@pytest.mark.parametrize(('findings', 'strict', 'code'), [
    ([], False, 0), ([], True, 0), ([ODD], False, 0), ([ODD], True, 1), ([ODD, WRONG], False, 2), ([WRONG], True, 2),
    ([Finding('note', 'grey', 'a picture is grey')], True, 0)])
def test_the_exit_code_tells_errors_and_warnings_where_strict(findings, strict, code):
    assert report(Outcome('one', findings=findings)).exit_code(strict) == code


def test_a_check_has_the_state_of_its_worst_finding():
    assert [state_of(one) for one in (
        Outcome('a', findings=[ODD, WRONG]), Outcome('b'), Outcome('c', skipped='no weights are named'))
    ] == ['error', 'fine', 'skipped']


@pytest.mark.parametrize(('findings', 'verdict'), [
    ([WRONG, WRONG, ODD], '2 errors, 1 warning: mend the errors before you train'),
    ([ODD], '1 warning; nothing speaks against training'), ([], 'nothing was found: ready to train')])
def test_the_verdict_counts_what_was_found(findings, verdict):
    assert report(Outcome('a', findings=findings)).verdict == verdict


def test_the_report_is_plain_json_whatever_the_values_are():
    odd = [Finding('error', 'k', 'm', value=value) for value in (float('nan'), {1, 2}, b'x' * 5000, 10**30)]
    text = json.dumps(report(Outcome('a', findings=odd)).as_dict(), allow_nan=False)
    assert json.loads(text)['checks'][0]['findings'][0]['value'] == 'nan'
    assert len(text) < 3000


@pytest.mark.parametrize(('error', 'what', 'remedy'), [
    (ValueError('a is 1; set b'), 'a is 1', 'set b'),
    (ValueError('the file x.y is cut. Get it again'), 'the file x.y is cut', 'Get it again'),
    (ValueError('no remedy'), 'no remedy', ''),
    (KeyError('lost'), "this could not be checked: KeyError: 'lost'", 'correct what the message names')])
def test_an_exception_becomes_a_finding_with_its_remedy(error, what, remedy):
    found = finding_of(error, 'weights')
    assert (found.message, found.remedy, found.severity) == (what, remedy, 'error')


def test_a_check_that_raises_is_an_outcome_with_one_finding():
    def check(given):
        raise TypeError(given)

    outcome = run_check('strides', check, 'odd')
    assert outcome.name == 'strides' and [one.kind for one in outcome.findings] == ['strides']


def test_findings_of_one_kind_are_shown_together_the_worst_kinds_first():
    groups = groups_of(Outcome('a', findings=[ODD, *[WRONG] * 30]))
    assert [(group.severity, group.count, len(group.shown)) for group in groups] == [
        ('error', 30, SHOWN), ('warning', 1, 1)]


VOID = {'meta', 'img', 'link', 'br', 'input'}


class Balance(HTMLParser):
    """Collects tags that are not closed in order, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.wrong, self.text = [], [], ''

    def handle_starttag(self, tag, attrs):
        self.open += [tag] * (tag not in VOID)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_needs_no_network_and_escapes_what_files_say(tmp_path):
    outcome = Outcome('data', 'two pictures', [WRONG, ODD], ['a  b', '1  2'])
    svg = '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg width="4" height="4"></svg>'
    path = tmp_path / 'page.html'
    write_page(path, report(outcome), [(Image.new('RGB', (8, 8)), '<b>one</b>')], [('lr', svg, 'the rate')])
    text = path.read_text()
    page = Balance()
    page.feed(text)
    assert not page.open and not page.wrong
    assert 'beyond <its> picture' in page.text and '<its>' not in text and '<b>one' not in text
    assert not re.search(r'(src|href)="(?!data:)', text) and '<?xml' not in text

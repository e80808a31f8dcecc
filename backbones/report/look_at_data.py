"""`python -m backbones.report.look_at_data SAMPLE FOLDER < config.json`: what the data of a config are like, as JSON.

A process of its own, so that the report can end it when it takes too long.
"""

from __future__ import annotations

import json
import os
import sys

from backbones.cli import quiet_imports


def main() -> None:
    """Read a config, look at its data, write the outcomes; an empty list where none of its files is here."""
    config = json.load(sys.stdin)
    with quiet_imports():
        from mmengine.config import Config

        from backbones.data_check.looking import Looker
        from backbones.data_check.remembered import memory_file
        from backbones.preflight.quick import data_outcomes

        from .data_findings import here

        if len(sys.argv) > 2 and os.path.isdir(sys.argv[2]):
            os.chdir(sys.argv[2])  # what relative paths of the config are seen from
        outcomes = []
        if here(config):
            looker = Looker(1, memory_file(), progress=False)
            outcomes = data_outcomes(Config(config), looker, int(sys.argv[1]))
    print(json.dumps([dict(
        name=one.name, summary=one.summary, skipped=one.skipped,
        findings=[finding.as_dict() for finding in one.findings[:50]]) for one in outcomes]))


if __name__ == '__main__':
    main()

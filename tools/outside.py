"""What to say where a tool is started by a Python without the project; needs nothing but Python 3.6."""

import os
import sys

OLDEST = (3, 10)


def explained(error):
    """The end of a tool whose first import failed: one sentence and exit code 2."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    there = os.path.isfile(os.path.join(root, '.venv', 'bin', 'activate'))
    path = '.venv' if os.getcwd() == root else os.path.join(root, '.venv')
    if there:
        remedy = f'activate the environment first: `. {path}/bin/activate`'
    else:
        remedy = f'run `make setup` in {root}, then `. {path}/bin/activate`'
    what = str(error)
    if sys.version_info < OLDEST:
        what = 'this is Python {}.{}, and {}.{} or newer is needed'.format(*sys.version_info[:2], *OLDEST)
    sys.stderr.write(f'error: {what} ({sys.executable}); {remedy}\n')
    return SystemExit(2)

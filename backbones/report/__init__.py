"""One page that shows a run: how good it is, where it fails, how it was trained. `tools/report.py`."""

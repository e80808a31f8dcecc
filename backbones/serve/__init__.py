"""A trained model behind a page and a JSON endpoint on this machine: `tools/serve.py`, docs/serve.md."""

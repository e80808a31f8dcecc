"""What a run needs beyond MMEngine. registry.py names the modules that register something."""

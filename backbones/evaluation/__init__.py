"""Metrics, test-time augmentation, prediction. registry.py names the modules that register something."""

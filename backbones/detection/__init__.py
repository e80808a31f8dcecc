"""Safer or faster parts of mmdet's heads. Each module imports mmdet only when its class is built."""

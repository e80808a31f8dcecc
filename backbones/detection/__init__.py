"""Safer, faster or missing parts of mmdet's heads. mmdet is imported only when one of them is built."""

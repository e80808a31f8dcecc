"""Everything that can be known wrong with a data set in COCO's or ADE20K's layout, as findings; nothing is trained.

`check.py` looks at a whole root; each other module looks at one thing. docs/data_check.md describes the checks.
"""

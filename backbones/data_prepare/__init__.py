"""Getting data ready: official archives fetched, verified and unpacked; other annotation formats turned into COCO's.

`archives` says what belongs to COCO 2017 and ADE20K, `fetch` brings and verifies it, `unpack` unpacks it, `place` puts
it where the configs look, and `custom` converts a folder of one's own, which `read_*` read.
"""

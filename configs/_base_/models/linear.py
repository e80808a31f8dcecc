"""A linear classifier on a frozen backbone, as DINOv2 and DINOv3 evaluate on ADE20K (150 classes); no backbone here.

https://github.com/facebookresearch/dinov2/blob/7c503b3/dinov2/eval/segmentation/models/decode_heads/linear_head.py
A leaf gives `model.backbone`, the head's `in_channels` and `dropout_ratio`, and `model.test_cfg`.
"""
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='backbones.SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_val=0, seg_pad_val=255),
    decode_head=dict(
        type='backbones.LinearHead', num_classes=150, norm_cfg=dict(type='SyncBN', eps=1e-5),
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    train_cfg=dict())

"""UperNet (https://arxiv.org/abs/1807.10221) as Swin, BEiT and ConvNeXt train it on ADE20K, without the backbone.

FCN auxiliary head on the third map (weight 0.4), SyncBN, dropout 0.1; 150 classes.
A leaf gives `model.backbone`, the heads' `in_channels`, and `model.test_cfg` (slide or whole).
"""
norm_cfg = dict(type='SyncBN', eps=1e-5, requires_grad=True)

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='backbones.SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_val=0, seg_pad_val=255),
    decode_head=dict(
        type='backbones.UPerHead', in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6), channels=512, dropout_ratio=0.1,
        num_classes=150, norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(
        type='backbones.FCNHead', in_index=2, channels=256, num_convs=1, concat_input=False, dropout_ratio=0.1,
        num_classes=150, norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4)),
    train_cfg=dict())

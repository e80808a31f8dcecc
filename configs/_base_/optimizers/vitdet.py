"""AdamW of ViTDet: lr 1e-4, weight decay 0.1, layer-wise decay, fp16, no clipping. A leaf gives the decay rate.

https://github.com/facebookresearch/detectron2/blob/02b5c4e/projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py
"""
optim_wrapper = dict(
    type='backbones.GuardedAmpOptimWrapper', dtype='float16',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_type='layer_wise', weight_decay_rule='vitdet'))

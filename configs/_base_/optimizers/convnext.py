"""AdamW of the ConvNeXt papers: weight decay 0.05, layer-wise decay, no clipping. A leaf gives lr and decay rate.

fp32; a leaf with mixed precision adds `type='backbones.GuardedAmpOptimWrapper', dtype='float16'`.
https://github.com/facebookresearch/ConvNeXt/blob/048efce/object_detection/mmcv_custom/layer_decay_optimizer_constructor.py
"""
optim_wrapper = dict(
    type='backbones.GuardedOptimWrapper', optimizer=dict(type='AdamW', betas=(0.9, 0.999), weight_decay=0.05),
    constructor='backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_type='layer_wise', weight_decay_rule='convnext'))

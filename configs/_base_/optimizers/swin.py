"""AdamW of Swin: lr 1e-4, weight decay 0.05 but for position tables and norms, one learning rate for all layers.

https://github.com/SwinTransformer/Swin-Transformer-Object-Detection/tree/6a979e2/configs/swin
"""
spared = ('absolute_pos_embed', 'relative_position_bias_table', 'norm')
optim_wrapper = dict(
    type='backbones.GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='backbones.DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in spared}))

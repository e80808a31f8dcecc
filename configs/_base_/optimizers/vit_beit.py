"""AdamW of BEiT and MAE with UperNet: weight decay 0.05, layer-wise decay, no clipping. A leaf gives lr, decay rate.

https://github.com/microsoft/unilm/blob/8b57ed1/beit/semantic_segmentation/configs/beit/upernet/upernet_beit_base_12_640_slide_160k_ade20k_pt2ft.py
"""
optim_wrapper = dict(
    type='backbones.GuardedOptimWrapper', optimizer=dict(type='AdamW', betas=(0.9, 0.999), weight_decay=0.05),
    constructor='backbones.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_type='layer_wise', weight_decay_rule='beit'))

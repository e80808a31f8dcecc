"""AdamW of mmsegmentation's ViT and DeiT: weight decay 0.01, one learning rate for all layers. A leaf gives lr.

The source spares `norm` as well, a name that its backbone has not (`ln1`, `ln2`): its norms are decayed, and so here.
https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/configs/vit/vit_vit-b16_mln_upernet_8xb2-160k_ade20k-512x512.py
"""
optim_wrapper = dict(
    type='backbones.GuardedOptimWrapper', optimizer=dict(type='AdamW', betas=(0.9, 0.999), weight_decay=0.01),
    constructor='backbones.DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in ('pos_embed', 'cls_token')}))

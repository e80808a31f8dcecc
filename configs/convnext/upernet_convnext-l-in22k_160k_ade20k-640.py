"""UperNet, ConvNeXt-L (ImageNet-22k), 160k, ADE20K 640 x 640.

torchrun --nproc_per_node 8 tools/train.py configs/convnext/upernet_convnext-l-in22k_160k_ade20k-640.py \
    --launcher pytorch
"""
_base_ = ['../_base_/models/upernet.py', '../_base_/datasets/ade20k_640.py', '../_base_/schedules/ade20k_160k.py',
          '../_base_/optimizers/convnext.py', '../_base_/hooks.py', '../_base_/runtime_seg.py']
card = dict(
    paper='https://arxiv.org/abs/2201.03545', table='Table 4',
    source='https://github.com/facebookresearch/ConvNeXt/blob/048efce/semantic_segmentation/configs/convnext/upernet_convnext_large_640_160k_ade20k_ss.py',
    init='convnext-l-in22k', batch=16, per_gpu=2, schedule='160000 iterations, poly 1.0 to 0',
    warmup='1500 iterations from 1e-06', lr=1e-4, weight_decay=0.05, no_weight_decay='convnext',
    decay='stage_wise 0.9, 12 layers', drop_path=0.4, precision='fp32',
    train='2560 x 640 times 0.5..2.0, crop 640 x 640', test='2560 x 640, slide 640 x 640 by 426 x 426', params='235M',
    flops='2458G at 640 x 2560', score=dict(mIoU=53.2, mIoU_ms=53.7))
checkpoint = 'convnext-l-in22k'
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        type='backbones.ConvNeXt', arch='large', drop_path_rate=0.4, layer_scale_init_value=1.0,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    decode_head=dict(in_channels=[192, 384, 768, 1536]), auxiliary_head=dict(in_channels=768),
    test_cfg=dict(mode='slide', crop_size=(640, 640), stride=(426, 426)))
optim_wrapper = dict(optimizer=dict(lr=1e-4), paramwise_cfg=dict(decay_type='stage_wise', decay_rate=0.9))

"""What every detection run shares: scope, drawing, process settings."""
default_scope = 'mmdet'
env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
visualizer = dict(
    type='DetLocalVisualizer', name='visualizer',
    vis_backends=[dict(type='backbones.LocalVisBackend'), dict(type='backbones.TensorboardVisBackend')])
tta_model = dict(
    type='backbones.InstanceTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
log_level = 'INFO'
load_from = None
resume = False
precision = None  # 'fp32', 'bf16' or 'fp16'; None: what optim_wrapper says, as published: docs/precision.md

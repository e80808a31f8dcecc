"""What every run does besides training: docs/survival.md, and how maps lie in memory: docs/precision.md.

Each part has a name: `default_hooks.watchdog.timeout_s=7200` changes it, `default_hooks.watchdog=None` leaves it out.
"""
default_hooks = dict(
    runtime_info=dict(type='backbones.RuntimeInfoHook'),
    precision=dict(type='backbones.PrecisionHook'),
    resume=dict(type='backbones.ResumeHook'),
    checkpoint=dict(type='backbones.SafeCheckpointHook', interval='validation', max_keep_ckpts=3),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    metrics=dict(type='backbones.MetricsFileHook'),
    run_record=dict(type='backbones.RunRecordHook'),
    non_finite=dict(type='backbones.NonFiniteHook', policy='skip', patience=10),
    watchdog=dict(type='backbones.WatchdogHook', timeout_s=1800),
    preemption=dict(type='backbones.PreemptionHook'),
    bad_samples=dict(type='backbones.BadSamplesHook'),
    history=dict(type='backbones.HistoryHook', length=1000))

"""torch.compile in training: the dense parts of a model, for a small set of sizes, with counters.

`regions.py` compiles, `hook.py` does it in a run and watches the counters, `switch.py` puts both into a config.
"""

"""When things happen in a run; what happens is in lpt/dataflow, lpt/weights and lpt/indicators.

Open `quantization` first: the order within an optimizer step. `step` is what all share; `flips`, `angles` and `traces`
measure, `metrics` and `progress` tell, `loggers` is where numbers go, `checkpoints` saves; `averaging` and `width`
change what is trained.
"""

"""From a configuration to a finished run. Open `run` first: the command line and the exit codes.

`experiment` makes the objects of a run (`parts`) and trains, `build` makes one object of one node and tells mistakes by
their keys (`arguments`), `training` holds the Trainer's settings, `folder` is the folder that a run leaves, `summary`
what stands in it, `saved` its checkpoints; `evaluation` and `searching` are the other two commands, `messages` makes
Hydra's errors readable.
"""

"""The paper's tables and figures, by command.

Open `plan` first: it makes runs of `conf/reproduce/NAME.yaml`. `launch` does them, `makers` and `correlation` turn them
into tables and figures, `writing` writes those, `archive` builds them again from committed summaries, `command` is the
command line. A new name is a new yaml; a new kind of table is a new function that its `make` names.
"""

"""The paper's tables and figures, by command: `conf/reproduce/NAME.yaml` says what, `plan` makes runs of it, `launch`
does them, `makers` turn them into tables and figures, `writing` writes those, `command` is the command line.

A new name is a new yaml; a new kind of table is a new function that its `make` names.
"""

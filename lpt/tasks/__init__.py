"""What is learned: a task turns batches into a loss and metrics, and knows nothing of quantization.

Open `task` first, the base of all; `classification`, `detection`, `language` and `translation` are the four kinds,
`schedules` the learning rates, `beam` how a translation is found.
"""

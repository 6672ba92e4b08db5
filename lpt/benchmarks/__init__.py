"""What simulated low precision costs, measured: the parts of scripts/benchmark.py. Open `measuring` first.

arguments   checks of the command line, before any work
measuring   works that take turns, their medians and ratios, and the table that is printed
stepping    a training step on one batch, called again and again
rounding    each rounding beside a copy, and other libraries at the same work
networks    steps of small networks, and one call
training    the training step: ratios, curves over model and batch size, the profile
blocks      a training step whose products round by blocks
simulators  whole steps by other libraries
starting    the time before the first step: imports and compilation
brief       what is asked of a GPU, in six minutes
chart       all ratios in one chart
"""

"""When things happen in a run. What happens is in lpt/flow.py, lpt/weights.py and lpt/indicators/."""

"""What a number format costs in hardware, by synthesis.

Open `unit` first: a multiply-accumulate unit, and what it computes, in integers. `operands` and `decoders` say how a
format's codes are taken apart, `accumulators` how sums are held, `verilog` and `floating` write the unit.
"""

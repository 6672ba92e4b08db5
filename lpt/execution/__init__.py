"""How a model computes, with the same values: what the backward pass keeps as codes (`packing`, open it first),
products in bfloat16 that stay exact (`bf16`), and the process's heap (`heap`)."""

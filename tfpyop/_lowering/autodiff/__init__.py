"""How TensorFlow differentiates calls: in eager code, in graphs and in forward mode."""

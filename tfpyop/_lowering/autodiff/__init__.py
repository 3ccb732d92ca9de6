"""The derivatives of calls: in eager code, in graphs and in forward mode."""

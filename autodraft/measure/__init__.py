"""Measuring: latencies, importance, agreement (F1), paired speedup (F2), and the formulas that tie them together."""

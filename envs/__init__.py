"""Gymnasium environments over the search: given an evaluator, never a checkpoint. None are registered yet."""

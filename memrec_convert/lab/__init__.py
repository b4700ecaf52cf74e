"""Comparison with what a user would take instead, at equal bytes."""

"""What a model is worth on a log: scores, metrics, differences with intervals, slices by form."""

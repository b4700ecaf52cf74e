"""The sample-pooled method as its authors released it: one bag for a whole sample, trained anew."""

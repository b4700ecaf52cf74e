"""Lookup profiles: counted from a log, or read from counts that were made elsewhere."""

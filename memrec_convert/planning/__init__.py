"""The rate-distortion plan: forms per table, levels per id, and their exact bytes. Pure: no files, no training."""

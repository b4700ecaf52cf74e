"""Training what conversion left free: codebooks, centres, M and W, towards the original's own logits."""

"""The warm start: sensitivities, row weights, residual codes, and the closed-form fit of hashed tokens."""

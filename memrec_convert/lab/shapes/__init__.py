"""Plans without a checkpoint, from the published shapes of models."""

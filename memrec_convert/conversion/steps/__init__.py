"""What happens to a model on its way to an artifact, in the order in which it happens."""

"""How fast an artifact is served: embedding stage and whole model, beside the original, on ids as they come."""

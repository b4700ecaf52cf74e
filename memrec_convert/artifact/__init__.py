"""The artifact: one safetensors file that says everything about itself; written whole or not at all."""

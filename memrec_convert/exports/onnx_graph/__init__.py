"""The lookups of an artifact and the networks around them as a graph of standard ONNX operators."""

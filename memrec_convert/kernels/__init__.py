"""The arithmetic of lookups: hashing, index resolution, decoding. The torch versions here are the reference."""

"""Captions of images: the captioner, its decoding, pseudo-queries, and captions for a folder of photos."""

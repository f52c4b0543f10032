"""Write captions of images: decoding, pseudo-queries, and captions for a folder of photos."""

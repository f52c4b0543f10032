"""Retrieval: from captions to ranked images and TREC runs."""

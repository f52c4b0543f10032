"""Retrieval: from test captions to a TREC run."""

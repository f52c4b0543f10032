"""Constrained decoding against its peers: the trie, the selection step, whole searches, and dense retrieval.

    make bench                                                          everything, into results/decoding_benchmark.json
    python -m benchmarks.decoding --output FILE --parts trie selection  some parts
    python -m benchmarks.decoding --output FILE --sizes toy             every part in seconds: does it run?

`tries`, `selection`, `end_to_end` and `dense` hold one part each and can be run alone; `dictionaries`, `marisa` and
`level_order` are the tries that are compared, `requirements` says what the figures have to show, `sizes` what is run.
Every part checks that the competitors give the same answers, and its rows say so (`same`).
"""

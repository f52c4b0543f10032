"""Constrained decoding compared with other methods: the trie, the selection step, whole searches, and dense retrieval.

    make bench                                                          everything, into results/decoding_benchmark.json
    python -m benchmarks.decoding --output FILE --parts trie selection  some parts
    python -m benchmarks.decoding --output FILE --sizes toy             every part in seconds, to see that it runs

`tries`, `selection`, `end_to_end` and `dense` contain one part each and can be run alone; `dictionaries`, `marisa` and
`level_order` are the tries being compared, `requirements` lists what the results must show, `sizes` what is run. Every part
checks that the competitors return the same answers, and records this in its rows (`same`).
"""

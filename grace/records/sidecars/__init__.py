"""Sidecars: a file beside every output that records how, from what, when and where it was made.

A folder written by a stage contains `provenance.json`; a file `F` written by a stage has `F.provenance.json` beside it. Time
and machine are recorded only there, so that equal runs write equal results. The command line records every stage
(`grace.records.sidecars.recording`), `python -m grace provenance FILE` follows the records back to the sources, and
`python -m grace verify results/` hashes everything again.
"""

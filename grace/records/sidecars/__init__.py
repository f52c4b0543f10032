"""Sidecars: what made an output, of what, when and where, in a file beside it.

A folder that a stage wrote holds `provenance.json`; a file `F` that a stage wrote has `F.provenance.json` beside it. Time and
machine stand only there, so that equal runs write equal results. The command line records every stage
(`grace.records.sidecars.recording`), `python -m grace provenance FILE` follows the records back to the sources, and
`python -m grace verify results/` hashes everything again.
"""

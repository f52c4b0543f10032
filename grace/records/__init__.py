"""Records of how results were made: provenance, sidecars, verification, masked secrets, last good outputs."""

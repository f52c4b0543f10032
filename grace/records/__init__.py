"""What a result says about its making: provenance, sidecars, verification, secrets left out, last good outputs."""

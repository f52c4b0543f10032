#!/usr/bin/env bash
# Made by `python tools/pins.py --write` from requirements/pins.toml: edit that file.
set -euo pipefail
python -m pip install --no-deps --requirement /dev/stdin <<'EOF'
open_flamingo==2.0.1 \
    --hash=sha256:97dcf78480aa31c7342b3f008d06b3864190464272d919fc61274fbdd7075a77 \
    --hash=sha256:df55893ef74a0691f7ce54592c1ca155a8e246160e2a658086031bf6b5eddbc8
EOF

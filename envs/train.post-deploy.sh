#!/usr/bin/env bash
# Made by `python tools/pins.py --write` from requirements/pins.toml: edit that file.
set -euo pipefail
python -m pip install --no-deps open_flamingo==2.0.1

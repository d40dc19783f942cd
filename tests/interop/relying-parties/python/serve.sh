#!/usr/bin/env bash
# Serves the relying party in Python at PORT.
exec target/interop/relying-parties/python/bin/flask --app tests/interop/relying-parties/python/app.py run --port "$PORT"

#!/bin/sh
# Opens the demo, which needs no server: ./demo.sh [--port 3112] [--no-open] ...
set -eu
cd "$(dirname "$0")"
. scripts/environment.sh
set_up demo --editable ".[cli]"
exec "$bin/motia-core" demo "$@"

#!/bin/sh
# Runs the tests: ./test.sh [pytest arguments]
set -eu
cd "$(dirname "$0")"
. scripts/environment.sh
set_up test --editable ".[all,testing]" --group test
exec "$bin/python" -m pytest "$@"

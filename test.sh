#!/bin/sh
# Runs the tests: ./test.sh [pytest arguments]
# One process for each core and one more, as tests wait a lot; MOTIA_TEST_PROCESSES=0: a single one.
set -eu
cd "$(dirname "$0")"
. scripts/environment.sh
set_up test --editable ".[all,testing]" --editable plugins_contrib/motia-postgres --group test
cores=$("$bin/python" -c 'import os; print(os.cpu_count() or 1)')
exec "$bin/python" -m pytest --numprocesses="${MOTIA_TEST_PROCESSES:-$((cores + 1))}" --dist=loadscope "$@"

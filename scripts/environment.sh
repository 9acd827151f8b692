# Makes the virtual environment .venv and installs this project in it, once: it is done
# again only when pyproject.toml changes. Sourced by demo.sh and test.sh from the top folder.
#
#   set_up NAME PIP_ARGUMENTS...
#
# Afterwards $bin is the folder of the environment's programs. $PYTHON chooses the Python.

set_up() {
    name=$1
    shift
    bin=.venv/bin
    want="$(cksum <pyproject.toml) $*"
    stamp=.venv/.installed-$name
    if [ -x "$bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && "$bin/python" -c "" 2>/dev/null; then
        return
    fi
    python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "Python 3.11 or newer is needed, as '$python' (or set PYTHON)." >&2
        exit 1
    fi
    if ! "$bin/python" -c "" 2>/dev/null; then
        echo "Making a virtual environment in .venv ..." >&2
        if ! "$python" -m venv --clear .venv; then
            echo "Python's venv module is needed; on Debian and Ubuntu: apt-get install python3-venv" >&2
            exit 1
        fi
    fi
    echo "Installing into .venv, which takes a minute the first time ..." >&2
    # Dependency groups need pip 25.1.
    "$bin/python" -m pip install --quiet --disable-pip-version-check "pip>=25.1"
    "$bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "$want" >"$stamp"
}

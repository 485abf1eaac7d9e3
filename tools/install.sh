#!/usr/bin/env bash
# Sets up .venv with the pinned packages, detectron2 and this project.
#
# Usage: tools/install.sh [DETECTRON2]
#
# DETECTRON2 is a folder with detectron2's source, used as it is, or anything else that pip can
# install. By default it is upstream's Python code as packaged on PyPI.
# PYTHON names the interpreter to make .venv with, python3 by default.
#
# Safe to repeat: what is in place is not installed again. Safe to interrupt: the next call starts
# over with a new .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

detectron2=${1:-default}
venv=.venv
python=$venv/bin/python
unfinished=$venv/unfinished

fail() {
  echo "install.sh: $1" >&2
  exit 1
}

begin() { touch "$unfinished"; }
finish() { # finish STAMP CONTENT
  printf '%s\n' "$2" >"$venv/$1.stamp"
  rm -f "$unfinished"
}
is_done() { # is_done STAMP CONTENT
  [[ ! -e $unfinished && -e $venv/$1.stamp && $(<"$venv/$1.stamp") == "$2" ]]
}

make_venv() {
  if [[ -x $python && ! -e $unfinished && -e $venv/packages.stamp ]]; then
    return
  fi
  local interpreter=${PYTHON:-python3}
  "$interpreter" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$interpreter is not a Python 3.10 or newer; name one with PYTHON=..."
  rm -rf "$venv"
  "$interpreter" -m venv "$venv" || fail "making $venv failed (on Debian: apt install python3-venv)"
}

# Every package is listed in requirements.lock, so pip need not look for more: it would bring a
# second OpenCV that needs a display.
install_packages() {
  local lock
  lock=$(sha256sum requirements.lock)
  if is_done packages "$lock"; then
    return
  fi
  begin
  local pins
  pins=$(grep -E '^(pip|setuptools)==' requirements.lock)
  # shellcheck disable=SC2086
  "$python" -m pip install --quiet $pins
  echo "Installing the packages of requirements.lock, 3 GB to download with CUDA's ..."
  "$python" -m pip install --quiet --no-deps --no-build-isolation -r requirements.lock
  finish packages "$lock"
}

install_detectron2() {
  local wanted=$detectron2
  [[ -d $detectron2 ]] && wanted=$(cd "$detectron2" && pwd)
  if is_done detectron2 "$wanted"; then
    return
  fi
  begin
  local site
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$python" -m pip uninstall --quiet --yes detectron2 sal-detectron2 2>/dev/null
  rm -f "$site/detectron2-source.pth"
  if [[ -d $wanted ]]; then
    [[ -e $wanted/detectron2/__init__.py ]] || fail "$wanted holds no detectron2/__init__.py"
    printf '%s\n' "$wanted" >"$site/detectron2-source.pth"
  elif [[ $wanted == default ]]; then
    # The wheel is tagged for one Python for the sake of a compiled extension that this project
    # does not use; its Python code runs on all.
    "$python" -m pip install --quiet --no-deps --target "$site" --only-binary=:all: \
      --python-version 3.10 --implementation cp --abi none --platform any \
      --require-hashes -r requirements-detectron2.txt
  else
    "$python" -m pip install --no-deps --no-build-isolation "$wanted"
  fi
  "$python" -c 'import detectron2' || fail "detectron2 from $wanted does not import"
  finish detectron2 "$wanted"
}

install_panet() {
  local project
  project="$PWD $(sha256sum pyproject.toml)"
  if is_done panet "$project"; then
    return
  fi
  begin
  "$python" -m pip install --quiet --no-deps --no-build-isolation --editable .
  finish panet "$project"
}

make_venv
install_packages
install_detectron2
install_panet

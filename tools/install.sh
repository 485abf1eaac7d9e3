#!/usr/bin/env bash
# Sets up .venv with the pinned packages, detectron2 and this project.
#
# Usage: tools/install.sh [DETECTRON2]
#
# DETECTRON2 is a folder with detectron2's source, used as it is, or anything else that pip can
# install, or "default": upstream's Python code as packaged on PyPI. Left out, it is what .venv has
# already, the default in a new one.
# PYTHON names the interpreter to make .venv with, python3 by default. TORCH=cpu installs PyTorch
# without CUDA, from the index TORCH_INDEX, by default PyTorch's own.
#
# Safe to repeat: what is in place is not installed again. Safe to interrupt: where it stopped
# among the packages, the next call starts over with a new .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
python=$venv/bin/python

fail() {
  echo "install.sh: $1" >&2
  exit 1
}

# A stamp holds what a step installed, and is there only if the step came to its end.
is_done() { # is_done STEP WHAT
  [[ -e $venv/$1.stamp && $(<"$venv/$1.stamp") == "$2" ]]
}
begin() { rm -f "$venv/$1.stamp"; }              # begin STEP
finish() { printf '%s\n' "$2" >"$venv/$1.stamp"; } # finish STEP WHAT

make_venv() {
  if [[ -e $venv/packages.stamp ]]; then
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
  local lock pins requirements=requirements.lock quiet=(--quiet) index=() size=", 3 GB, most of it for CUDA"
  if [[ -z ${TORCH:-} && -e $venv/packages.stamp && $(<"$venv/packages.stamp") == *" cpu" ]]; then
    TORCH=cpu # as .venv has it
  fi
  lock="$(sha256sum requirements.lock) ${TORCH:-}"
  if is_done packages "$lock"; then
    return
  fi
  if [[ ${TORCH:-} == cpu ]]; then
    requirements=$venv/requirements-cpu.lock
    cpu_requirements <requirements.lock >"$requirements"
    index=(--extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}")
    size=
  elif ! command -v nvidia-smi >/dev/null; then
    echo "There is no NVIDIA GPU; TORCH=cpu installs a PyTorch without CUDA, from download.pytorch.org."
  fi
  if [[ -t 1 ]]; then
    quiet=() # pip shows what it downloads, with a bar
  fi
  begin packages
  mapfile -t pins < <(grep -E '^(pip|setuptools)==' requirements.lock)
  "$python" -m pip install --quiet "${pins[@]}"
  echo "Installing the packages of requirements.lock$size ..."
  "$python" -m pip install "${quiet[@]}" --no-deps --no-build-isolation "${index[@]}" -r "$requirements"
  finish packages "$lock"
}

cpu_requirements() { # the lock file without CUDA
  sed -E '/^(cuda-|nvidia-|triton==)/d; s/^(torch|torchvision)==([0-9.]+)/\1==\2+cpu/'
}

install_detectron2() { # install_detectron2 WANTED
  local wanted=$1 site
  if [[ -z $wanted && -e $venv/detectron2.stamp ]]; then
    wanted=$(<"$venv/detectron2.stamp")
  fi
  wanted=${wanted:-default}
  if [[ -d $wanted ]]; then
    wanted=$(cd "$wanted" && pwd)
    [[ -e $wanted/detectron2/__init__.py ]] || fail "$wanted holds no detectron2/__init__.py"
  fi
  if is_done detectron2 "$wanted"; then
    return
  fi
  begin detectron2
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$python" -m pip uninstall --quiet --yes detectron2 sal-detectron2 2>/dev/null
  rm -f "$site/detectron2-source.pth"
  if [[ -d $wanted ]]; then
    printf '%s\n' "$wanted" >"$site/detectron2-source.pth"
  elif [[ $wanted == default ]]; then
    "$python" panet_cli.py install-detectron2
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
  begin panet
  "$python" -m pip install --quiet --no-deps --no-build-isolation --editable .
  finish panet "$project"
}

make_venv
install_packages
install_detectron2 "${1:-}"
install_panet

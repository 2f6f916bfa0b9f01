#!/usr/bin/env bash
# Makes DIR/bin/python: this machine's python3 with the torch that libtorch comes from, numpy and safetensors, for the
# comparisons with PyTorch. Does nothing when DIR has them already.
#
#   deploy/venv.sh DIR SITE     SITE holds torch, as deploy/libtorch.sh lays it
#
# torch itself is there already; what it imports is fetched, some 100 MB on disk. Its CUDA libraries, 2 GB, are of use to a
# GPU only. Where they are missing, empty libraries take their names, and Python looks symbols up when they are called: on a
# CPU none of them is.
#
# Exit status 3: this python3 cannot, because SITE was made for another one.
set -euo pipefail

dir=$1
site=$(realpath "$2")
torch=2.11.0
if "$dir/bin/python" -c "import numpy, safetensors, torch; assert torch.__version__.split('+')[0] == '$torch'" 2>/dev/null; then
	echo "$dir has torch $torch, numpy and safetensors"
	exit 0
fi
python=$(python3 -c 'import sys; print(sys.executable)')
tag=$("$python" -c 'import sys; print("cpython-%d%d" % sys.version_info[:2])')
if ! compgen -G "$site/torch/_C.$tag-*.so" >/dev/null; then
	echo "deploy/venv.sh: $site/torch is not for this python3 ($tag): remove it and make again with a Python of 3.10 to 3.14" >&2
	exit 3
fi
echo "fetching numpy, safetensors and what torch imports from PyPI"
rm -rf "$dir"
mkdir -p "$dir/bin" "$dir/site" "$dir/empty"
PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --no-compile --target "$dir/site" \
	"numpy==2.*" "safetensors==0.*" filelock "typing-extensions>=4.10" "sympy>=1.13.3,<2" "networkx>=2.5.1" jinja2 "fsspec>=0.8.5"
for name in $(ldd "$site/torch/lib/libtorch_python.so" | awk '/not found/ { print $1 }' | sort -u); do
	echo | g++ -shared -x c++ - -Wl,-soname,"$name" -o "$dir/empty/$name"
done
cat >"$dir/site/sitecustomize.py" <<'PY'
import ctypes, os, sys

_empty = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "empty")
if os.listdir(_empty):
    sys.setdlopenflags(os.RTLD_LAZY)
    for _name in sorted(os.listdir(_empty)):
        ctypes.CDLL(os.path.join(_empty, _name), mode=os.RTLD_GLOBAL)
PY
cat >"$dir/bin/python" <<SH
#!/bin/sh
here=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
PYTHONPATH="\$here/site:$site" exec "$python" "\$@"
SH
chmod +x "$dir/bin/python"
"$dir/bin/python" -c "import numpy, safetensors, torch; assert torch.__version__.split('+')[0] == '$torch'"

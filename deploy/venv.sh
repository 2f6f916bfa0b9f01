#!/usr/bin/env bash
# Makes a Python at DIR with the torch that libtorch comes from, numpy and safetensors, for the comparisons with PyTorch.
# Does nothing when DIR has them already.
#
#   deploy/venv.sh DIR
set -euo pipefail

dir=$1
torch=2.11.0
if "$dir/bin/python" -c "import numpy, safetensors, torch; assert torch.__version__.split('+')[0] == '$torch'" 2>/dev/null; then
	echo "$dir has torch $torch, numpy and safetensors"
	exit 0
fi
python3 -m venv "$dir" || {
	echo "deploy/venv.sh: python3 cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
	exit 1
}
echo "fetching torch $torch, numpy and safetensors from PyPI"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check "torch==$torch" "numpy==2.*" "safetensors==0.*"

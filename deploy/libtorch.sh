#!/usr/bin/env bash
# Lays libtorch under DIR from PyPI's wheels: DIR/torch, that is lib, include and the Python side of torch (deploy/venv.sh), and
# the CUDA runtime libraries that libtorch_cpu.so names in its RPATH. Python fetches it here and is never needed to run mp.
#
#   deploy/libtorch.sh DIR           libtorch; with a GPU on this machine its whole set of CUDA libraries too
#   deploy/libtorch.sh DIR whole     libtorch with all of CUDA, wherever this runs: for a container image
#   deploy/libtorch.sh DIR cuda      the CUDA compiler (nvcc and headers) instead, for `make cuda`
set -euo pipefail

dir=$1
what=${2:-libtorch}
torch=torch==2.11.0
platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_25 manylinux_2_24 manylinux_2_17 manylinux2014; do
	platforms+=(--platform "${tag}_x86_64")
done
case $what in
cuda) packages=(--no-deps nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96) ;;
libtorch)
	packages=(--no-deps "$torch" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
	if [ -e /dev/nvidia0 ]; then packages=("$torch"); fi
	;;
whole) packages=("$torch") ;;
*)
	echo "deploy/libtorch.sh: there is no \"$what\": choose libtorch, whole or cuda" >&2
	exit 64
	;;
esac

# The wheel for this machine's Python, so that it can import torch; any will do for libtorch.
python=$(python3 -c 'import sys; v = sys.version_info; print("%d.%d" % v[:2] if (3, 10) <= v[:2] <= (3, 14) else "3.12")')

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
echo "fetching ${packages[*]} from PyPI"
python3 -m pip download --quiet --disable-pip-version-check --only-binary=:all: --implementation cp --python-version "$python" \
	"${platforms[@]}" --dest "$wheels" "${packages[@]}" || {
	echo "deploy/libtorch.sh: pip could not fetch the wheels; check the network, or use an installed torch 2.11.0: make LIBTORCH=.../site-packages/torch" >&2
	exit 1
}
mkdir -p "$dir"
python3 - "$dir" "$wheels" <<'PY'
import pathlib, sys, zipfile

out, wheels = sys.argv[1:]
wanted, unwanted = ("torch/", "torchgen/", "functorch/", "nvidia/"), ("torch/bin/p", "torch/test/")  # protoc
for wheel in sorted(pathlib.Path(wheels).glob("*.whl")):
    with zipfile.ZipFile(wheel) as z:
        for entry in z.infolist():
            if not entry.filename.startswith(wanted) or entry.filename.startswith(unwanted):
                continue
            path = z.extract(entry, out)
            mode = entry.external_attr >> 16
            if mode:
                pathlib.Path(path).chmod(mode | 0o200)
PY

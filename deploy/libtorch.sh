#!/usr/bin/env bash
# Lays libtorch under DIR from PyPI's wheels: DIR/torch/{lib,include} and the CUDA runtime libraries that libtorch_cpu.so
# names in its RPATH. Python fetches it here and is never needed to run mp.
#
#   deploy/libtorch.sh DIR           libtorch; with a GPU on this machine its whole set of CUDA libraries too
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
esac

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
echo "fetching ${packages[*]} from PyPI"
python3 -m pip download --quiet --disable-pip-version-check --only-binary=:all: --implementation cp --python-version 3.12 \
	"${platforms[@]}" --dest "$wheels" "${packages[@]}" || {
	echo "deploy/libtorch.sh: pip could not fetch the wheels; check the network, or use an installed torch 2.11.0: make LIBTORCH=.../site-packages/torch" >&2
	exit 1
}
mkdir -p "$dir"
python3 - "$dir" "$wheels" <<'PY'
import pathlib, sys, zipfile

out, wheels = sys.argv[1:]
wanted = ("torch/lib/", "torch/include/", "torch/version.py", "nvidia/")
for wheel in sorted(pathlib.Path(wheels).glob("*.whl")):
    with zipfile.ZipFile(wheel) as z:
        for entry in z.infolist():
            if not entry.filename.startswith(wanted):
                continue
            path = z.extract(entry, out)
            mode = entry.external_attr >> 16
            if mode:
                pathlib.Path(path).chmod(mode | 0o200)
PY

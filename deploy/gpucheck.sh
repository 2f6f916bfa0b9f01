#!/usr/bin/env bash
# Everything that a GPU has to show, in one run: it computes what the CPU computes in float64 and what PyTorch computes, twice
# the same bits, by one rank and by two; how fast it trains beside PyTorch, eager and compiled; a short training. Ten minutes on
# one GPU; nothing is fetched.
#
#   deploy/gpucheck.sh                 on a machine with a GPU, after make or beside a bundle; DEVICE=1 is another GPU
#   DEVICE=cpu deploy/gpucheck.sh      the rehearsal: the same, small, on the CPU
#   deploy/gpucheck.sh pack            build/gpucheck.tgz: mp with its libraries, for a machine that builds nothing
#
# PYTHON has torch, numpy and safetensors; LIBTORCH is torch's folder, by default that Python's. OUT keeps all that was printed.
set -euo pipefail
cd "$(dirname "$0")/.."
bundle=build/gpucheck.tgz

if [ "${1:-}" = pack ]; then
	root=build/gpucheck
	rm -rf $root && mkdir -p $root/lib
	go build -ldflags "-s -w" -o $root/mp .
	cp -L build/lib/lib{cgotorch,mpops,mppixel,mpcuda}.so $root/lib/ # not the empty libtorch.so, which Python would take for its own
	for f in $root/mp $root/lib/*.so; do ldd "$f" || true; done | awk '$1 ~ /^libjpeg/ { print $3 }' | sort -u | xargs -I{} cp -L {} $root/lib/
	tar -C $root -czf $bundle . && ls -l $bundle
	exit
fi

device=${DEVICE:-0}
out=${OUT:-build/gpucheck-out}
mkdir -p "$out" && out=$(realpath "$out")
python=${PYTHON:-}
if [ -z "$python" ]; then python=$([ -x build/venv/bin/python ] && echo build/venv/bin/python || echo python3); fi
export LIBTORCH=${LIBTORCH:-$("$python" -c 'import os, torch; print(os.path.dirname(torch.__file__))')}
mp=./mp
if [ -e $bundle ] && [ ! -x $mp ]; then
	here=$(mktemp -d) && trap 'rm -rf "$here"' EXIT
	tar -C "$here" -xzf $bundle
	mp=$here/mp
	export LD_LIBRARY_PATH=$here/lib:$LIBTORCH/lib:${LD_LIBRARY_PATH:-}
fi
if [ "$device" = cpu ]; then
	on=cpu models=simplenet,scenenet modes=channels_last batch=8 size=32 seconds=0.5 repetitions=1 images=256 epochs=1 pixels=32
else
	on=cuda models=simplenet,resnet18 modes=channels_last,bf16 batch=256 size=128 seconds=2 repetitions=1 images=20000 epochs=3 pixels=128
fi

failed=()
# A part of the check under a name: what it prints is kept, its end shown, and its time and verdict go into the last table.
part() {
	local name=$1 began=$SECONDS verdict=ok
	shift
	echo "== $name"
	if ! "$@" >"$out/$name.txt" 2>&1; then verdict=FAILED && failed+=("$name"); fi
	tail -n "${lines:-40}" "$out/$name.txt"
	printf '%-12s %4d s  %s\n' "$name" $((SECONDS - began)) "$verdict" >>"$out/table.txt"
}

# Three epochs of natural training, then one against PGD, on painted images.
train() {
	local data how
	data=$(mktemp -d)
	$mp data synth "$data" --classes 20 --train-images $images --val-images $((images / 10)) --quiet
	$mp data pack "$data" --quiet
	for how in "--epochs $epochs" "--epochs 1 --adversarial pgd --adv-watch-images $((images / 40))"; do
		$mp train "$data" --device "$device" --model scenenet $how --image-size $pixels --batch-size $((batch < 64 ? 64 : batch)) \
			--precision "$([ $on = cuda ] && echo bf16 || echo fp32)" --runs "$out/runs" --name gpucheck || return
	done
	rm -rf "$data"
}

rm -f "$out/table.txt"
computed=$(mktemp --suffix .safetensors)
part machine $mp doctor
part compute $mp doctor --compute "$device" --save "$computed"
lines=20 part pytorch "$python" deploy/gpucheck.py "$computed" $on
part speed $mp bench step --device "$device" --python "$(command -v "$python")" --model $models --mode $modes --batch-size $batch --image-size $size \
	--seconds $seconds --repetitions $repetitions --compile
lines=60 part training train
echo "== all ($([ $on = cpu ] && echo the CPU || grep -m1 -o 'NVIDIA [^,]*' "$out/machine.txt"); $SECONDS s; $out)"
cat "$out/table.txt"
rm -f "$computed"
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}" && exit 1; }

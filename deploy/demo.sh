#!/usr/bin/env bash
# The main job, start to end: data, packs, a few minutes of training, evaluation. It ends with where everything is.
#
#   deploy/demo.sh [DATA]    DATA is a MiniPlaces folder, or one that holds its archives. Without it MP_DATA is asked, then
#                            miniplaces/ here and beside this repository; without images a stand-in is painted.
set -euo pipefail
cd "$(dirname "$0")/.."

epochs=${EPOCHS:-2}
data=${1:-${MP_DATA:-}}
for place in miniplaces ../miniplaces ../shared/data/miniplaces-mini; do
	if [ -z "$data" ] && [ -e "$place/categories.txt" ]; then data=$place; fi
done
if [ -z "$data" ]; then
	data=build/synth
	echo "No MiniPlaces here (say where with: make demo DATA=DIR): painting a stand-in in $data"
	if [ ! -e $data/val.txt ]; then ./mp data synth $data --classes 20 --train-images 4000 --val-images 1000; fi
elif ls "$data"/*.tar.gz >/dev/null 2>&1 && [ ! -d "$data/train" ] && [ ! -d "$data/images" ]; then
	echo "Unpacking the archives of $data into build/miniplaces"
	if [ ! -e build/miniplaces/categories.txt ]; then ./mp data unpack build/miniplaces "$data"/*.tar.gz; fi
	data=build/miniplaces
fi
# A worker a core is the fastest layout of a CPU; the result is the same for any number of them.
layout=(--workers "${WORKERS:-$(nproc)}")
if [ -z "${WORKERS:-}" ] && [ -e /dev/nvidia0 ]; then layout=(--gpus all); fi
./mp train "$data" --model scenenet --epochs "$epochs" --image-size 64 --name demo "${layout[@]}"
run=$(ls -td runs/*-demo* | head -n 1)
./mp evaluate "$data" --checkpoint "$run" --mirror
echo "Run: $run    Packs: $data    More: ./mp --help"

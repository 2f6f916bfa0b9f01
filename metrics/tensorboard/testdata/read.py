"""Prints what the real TensorBoard reads from a folder, as JSON: by run, every value of every tag.

    TENSORBOARD=build/tensorboard build/venv/bin/python metrics/tensorboard/testdata/read.py FOLDER [PICTURES]

PICTURES is a folder for the pictures that come back.
"""

import hashlib
import json
import os
import sys

sys.path.insert(0, os.environ["TENSORBOARD"])

from tensorboard.backend.event_processing import event_accumulator, io_wrapper  # noqa: E402

everything = {kind: 0 for kind in ("scalars", "images", "histograms", "compressedHistograms", "tensors", "audio", "graph")}
runs = {}
for folder in io_wrapper.GetLogdirSubdirectories(sys.argv[1]):
    a = event_accumulator.EventAccumulator(folder, size_guidance=everything)
    a.Reload()
    name = os.path.relpath(folder, sys.argv[1])
    run = runs[name] = {"scalars": {}, "images": {}, "histograms": {}}
    for tag in a.Tags()["scalars"]:
        run["scalars"][tag] = [[s.step, s.wall_time, s.value] for s in a.Scalars(tag)]
    for tag in a.Tags()["images"]:
        run["images"][tag] = [
            [i.step, i.wall_time, i.width, i.height, hashlib.sha256(i.encoded_image_string).hexdigest()] for i in a.Images(tag)
        ]
        for i in a.Images(tag) if len(sys.argv) > 2 else []:
            path = os.path.join(sys.argv[2], f"{name}-{i.step:08d}-{tag.replace('/', '-')}.png")
            with open(path, "wb") as f:
                f.write(i.encoded_image_string)
    for tag in a.Tags()["histograms"]:
        run["histograms"][tag] = [
            [h.step, h.wall_time, v.min, v.max, v.num, v.sum, v.sum_squares, list(v.bucket_limit), list(v.bucket)]
            for h in a.Histograms(tag)
            for v in [h.histogram_value]
        ]
json.dump(runs, sys.stdout)

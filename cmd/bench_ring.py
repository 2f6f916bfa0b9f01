"""One rank of gloo's all-reduce, PyTorch's own, for `mp bench ring`. Rank 0 prints seconds: a list of calls for each length.

    python bench_ring.py '{"rank": 0, "size": 2, "dir": "/tmp/d", "lengths": [350000], "rounds": 9}'
"""

import json
import os
import sys
import time

import torch
import torch.distributed as dist


def main(spec):
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(spec["dir"], "store"), spec["size"])
    dist.init_process_group("gloo", store=store, rank=spec["rank"], world_size=spec["size"])
    result = []
    for length in spec["lengths"]:
        x = torch.zeros(length)
        seconds = []
        for _ in range(spec["rounds"] + 2):
            start = time.perf_counter()
            dist.all_reduce(x)
            seconds.append(time.perf_counter() - start)
        result.append(seconds[2:])
    dist.barrier()
    dist.destroy_process_group()
    if spec["rank"] == 0:
        print(json.dumps(result))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

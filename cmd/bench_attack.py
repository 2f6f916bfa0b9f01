"""One measurement of torchattacks' PGD, for `mp bench attack`. Prints the seconds of each batch as one JSON list.

    python bench_attack.py '{"model": "simplenet", "mode": "fp32", "batch": 32, "steps": 20, "threads": 2, "seconds": 3, "cuda": -1}'
"""

import json
import os
import sys
import time

import torch
import torch.nn as nn

sys.path.extend(filter(None, [os.environ.get("TORCHATTACKS")]))
import torchattacks  # noqa: E402


def simplenet():
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(64, 64, 1), nn.ReLU(inplace=True), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(64, 256, 1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(256, 128, 1), nn.ReLU(inplace=True), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(128, 512, 1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 100),
    )


class Normalised(nn.Module):
    def __init__(self, net, bf16):
        super().__init__()
        self.net, self.bf16 = net, bf16
        self.register_buffer("mean", torch.tensor([.485, .456, .406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([.229, .224, .225]).view(1, 3, 1, 1))

    def forward(self, x):
        z = (x - self.mean) / self.std
        return self.net(z.bfloat16()).float() if self.bf16 else self.net(z)


def main():
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    device = torch.device("cpu" if spec["cuda"] < 0 else f"cuda:{spec['cuda']}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    net, x = simplenet().to(device).eval(), torch.rand(spec["batch"], 3, 128, 128, device=device)
    if spec["mode"] != "fp32":
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    if spec["mode"] == "bf16":
        net = net.bfloat16()
    victim = Normalised(net, spec["mode"] == "bf16").to(device).eval()
    labels = torch.randint(100, (spec["batch"],), device=device)
    attack = torchattacks.PGD(victim, eps=8 / 255, alpha=2.5 * 8 / 255 / spec["steps"], steps=spec["steps"], random_start=True)

    def step():
        began = time.perf_counter()
        attack(x, labels).sum().item()
        return time.perf_counter() - began

    step()
    seconds, end = [], time.perf_counter() + spec["seconds"]
    while not seconds or time.perf_counter() < end:
        seconds.append(step())
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()

"""One measurement of PyTorch's own training step, for `mp bench step`: forward, loss, backward, clip, update of one batch in
memory, as a training script written with care does it. Prints seconds, one step a line, as one JSON list.

    python bench_step.py '{"model": "simplenet", "mode": "fp32", "batch": 32, "size": 128, "threads": 2, "seconds": 3, "cuda": -1}'

"load" takes each batch from uint8 images in the file "data"/records instead, varied as for training: the data path. With
"workers" of at least 2 it is rank "rank" of DistributedDataParallel on gloo instead, which meets the others in the folder
"dir" and takes its part of the batch; it prints {"seconds": [...], "working": s, "waited": s, "cpu": s}, the last three a step.
"""

import contextlib
import json
import math
import os
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

CLASSES = 100


def simplenet():
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(64, 64, 1), nn.ReLU(inplace=True), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(64, 256, 1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(256, 128, 1), nn.ReLU(inplace=True), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(128, 512, 1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES),
    )


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):  # [B T D]
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    def __init__(self, dim, heads, window, drop):
        super().__init__()
        self.window, self.drop = window, drop
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def path(self, x):
        if self.drop == 0:
            return x
        keep = 1 - self.drop
        return x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(keep).div_(keep)

    def forward(self, x):  # [N H W D]
        n, h, w, d = x.shape
        y, p = self.norm1(x), self.window
        if p:
            y = y.view(n, h // p, p, w // p, p, d).transpose(2, 3).reshape(-1, p * p, d)
            y = self.attn(y).view(n, h // p, w // p, p, p, d).transpose(2, 3).reshape(n, h, w, d)
        else:
            y = self.attn(y.view(n, h * w, d)).view(n, h, w, d)
        x = x + self.path(y)
        return x + self.path(self.mlp(self.norm2(x)))


class SimpleViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 192, 16, 16)
        self.pos = nn.Parameter(torch.zeros(1, 8, 8, 192))
        self.blocks = nn.Sequential(*[Block(192, 4, 4 if i % 2 == 0 else 0, 0.1 * i / 3) for i in range(4)])
        self.head = nn.Linear(192, CLASSES)

    def forward(self, x):
        x = (self.patch(x).permute(0, 2, 3, 1) + self.pos).contiguous()
        return self.head(self.blocks(x).mean((1, 2)))


class BasicBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def resnet18():
    stages, cin = [], 64
    for i, cout in enumerate([64, 128, 256, 512]):
        stages += [BasicBlock(cin, cout, min(i + 1, 2)), BasicBlock(cout, cout, 1)]
        cin = cout
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES),
    )


def scenenet():
    layers, cin = [], 3
    for cout in (32, 64):
        layers += [nn.Conv2d(cin, cout, 3, 2, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]
        cin = cout
    for i, (cout, blocks) in enumerate([(64, 1), (128, 1), (256, 2), (384, 1)]):
        for j in range(blocks):
            stride = 2 if i > 0 and j == 0 else 1
            block = BasicBlock(cin, cout, stride)
            if block.downsample is not None:  # average, then project
                pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
                block.downsample = nn.Sequential(pool, nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout))
            layers.append(block)
            cin = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, CLASSES))


RECORD, MARGIN = 128, 8  # side of an image in the file, and how far a crop may go beyond it


def loader(path, n, size, form):
    """A function that draws n images, crops, flips and normalises them: the leanest data path that PyTorch has, which reads no
    JPEG and starts no process."""
    records = torch.from_file(path, size=os.path.getsize(path), dtype=torch.uint8).view(-1, RECORD, RECORD, 3)
    canvas = torch.zeros(n, RECORD + 2 * MARGIN, RECORD + 2 * MARGIN, 3, dtype=torch.uint8)
    inside = canvas[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    crop = torch.empty(n, size, size, 3, dtype=torch.uint8)
    mean = 255 * torch.tensor([0.485, 0.456, 0.406])
    std = 255 * torch.tensor([0.229, 0.224, 0.225])

    def draw():
        inside.copy_(records[torch.randint(len(records), (n,))])
        corners = torch.randint(RECORD + 2 * MARGIN - size + 1, (n, 2)).tolist()
        flips = (torch.rand(n) < 0.5).tolist()
        for i, ((y, x), flip) in enumerate(zip(corners, flips)):
            part = canvas[i, y:y + size, x:x + size]
            crop[i] = part.flip(1) if flip else part
        x = crop.float().sub_(mean).div_(std)  # [N H W C]
        return x.permute(0, 3, 1, 2).contiguous(memory_format=form)

    return draw


def make(spec):
    """Model, a function that returns images, labels, optimizer and precision of one process."""
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    device = torch.device("cpu" if spec["cuda"] < 0 else f"cuda:{spec['cuda']}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    nets = {"simplenet": simplenet, "simplevit": SimpleViT, "resnet18": resnet18, "scenenet": scenenet}
    net = nets[spec["model"]]().to(device).train()
    batch = spec["batch"] // max(spec.get("workers", 0), 1)
    if spec.get("compile"):
        net.compile()
    form = torch.contiguous_format if spec["mode"] == "fp32" else torch.channels_last
    net = net.to(memory_format=form)
    if spec.get("load"):
        images = loader(os.path.join(spec["data"], "records"), batch, spec["size"], form)
    else:
        x = torch.randn(batch, 3, spec["size"], spec["size"], device=device).contiguous(memory_format=form)
        images = lambda: x  # noqa: E731
    labels = torch.randint(CLASSES, (batch,), device=device)
    precision = contextlib.nullcontext
    if spec["mode"] == "bf16":
        precision = lambda: torch.autocast(device.type, dtype=torch.bfloat16)  # noqa: E731
    if spec["model"] == "simplevit":
        optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    else:
        optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9, weight_decay=1e-4)
    return net, images, labels, optimizer, precision


def stepper(net, images, labels, optimizer, precision, backward=lambda loss: loss.backward()):
    def step():
        with precision():
            loss = F.cross_entropy(net(images()), labels)
        optimizer.zero_grad(set_to_none=True)
        backward(loss)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def timed(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def union(spans):
    """Length of what the spans cover together."""
    total, end = 0.0, -math.inf
    for a, b in sorted(spans):
        total += max(0.0, b - max(a, end))
        end = max(end, b)
    return total


def rank(spec):
    """One rank of DistributedDataParallel: its seconds, then more steps with a hook that sees when buckets go and come."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        sys.exit("this PyTorch has no torch.distributed with gloo, which DistributedDataParallel needs on a CPU: take another --python")
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
    from torch.nn.parallel import DistributedDataParallel

    net, images, labels, optimizer, precision = make(spec)
    store = dist.FileStore(os.path.join(spec["dir"], "store"), spec["workers"])
    dist.init_process_group("gloo", store=store, rank=spec["rank"], world_size=spec["workers"])
    step = stepper(DistributedDataParallel(net, gradient_as_bucket_view=True), images, labels, optimizer, precision)
    for _ in range(2):  # buckets are laid anew after the first
        step()
    steps = torch.tensor([math.ceil(spec["seconds"] / timed(step))])
    dist.all_reduce(steps, dist.ReduceOp.MAX)
    steps = max(1, int(steps))
    cpu = time.process_time()
    seconds = [timed(step) for _ in range(steps)]
    cpu = (time.process_time() - cpu) / steps

    spans, waits, last = [], [], [0.0]

    def hook(group, bucket):
        start = last[0] = time.perf_counter()  # at the last bucket, every gradient is there

        def arrived(future):
            spans.append((start, time.perf_counter()))
            return future.value()

        return default_hooks.allreduce_hook(group, bucket).then(arrived)

    def backward(loss):
        loss.backward()
        waits.append(time.perf_counter() - last[0])

    seen = DistributedDataParallel(net, gradient_as_bucket_view=True)
    seen.register_comm_hook(None, hook)
    step = stepper(seen, images, labels, optimizer, precision, backward)
    for _ in range(2):
        step()
    spans.clear()
    waits.clear()
    n = max(1, steps // 3)
    for _ in range(n):
        step()
    print(json.dumps({"seconds": seconds, "working": union(spans) / n, "waited": sum(waits) / n, "cpu": cpu}))
    dist.barrier()
    dist.destroy_process_group()


def main(spec):
    if spec.get("workers", 0) > 1:
        return rank(spec)
    step = stepper(*make(spec))
    step()
    if spec.get("compile"):  # what was compiled runs once
        step()
    cpu = time.process_time()
    seconds, end = [], time.perf_counter() + spec["seconds"]
    while not seconds or time.perf_counter() < end:
        seconds.append(timed(step))
    print(json.dumps({"seconds": seconds, "cpu": (time.process_time() - cpu) / len(seconds)} if "workers" in spec else seconds))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

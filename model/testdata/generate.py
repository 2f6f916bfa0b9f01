"""Writes what PyTorch computes for the networks of this package: simplenet.json, simplevit.json, resnet18.json.

Run from the repository's root, after `make venv`:  build/venv/bin/python model/testdata/generate.py [arch ...]

The networks are written out here in plain PyTorch. Weights and inputs follow from formulas in integers and exactly
rounded float64 operations, so that package modeltest makes the same bits in Go:

    u(name, i) = (mix(fnv1a(name) + (i + 1) * GAMMA) >> 11) * 2^-52 - 1     in [-1, 1), mix = SplitMix64's finaliser
    weight of rank > 1    u * sqrt(3 * g / fan_in), g = 2 for rank 4, 1 for rank 2, fan_in = elements / shape[0]
    pos_embed             u * 0.5
    *.running_var         1 + 0.5 u
    other *.weight        1 + 0.25 u      (norms)
    everything else       0.1 u           (biases, running means)
    images [N 3 S S]      0.5 u("images", i) + u("blocks", j), i in C order, j = index of the 16 x 16 block in [N 3 S/16 S/16]
    labels                (37 n + 11) mod 100

Each file:
    arch, classes, batch, size, torch
    logits_eval, logits_train   [batch][classes] at the start, by the running and by the batch's statistics; float64
    loss                        mean cross-entropy of logits_train; float64
    gradients                   of loss, in name order: name, shape, norm, and probe = sum_i grad_i u(name + "/probe", i); float64
    buffers                     running statistics after that one training pass: name, shape, norm; float64
    runs                        training from the start on the one batch, 10 updates each: optimizer and its settings, and
                                losses (float32, before each update), losses_float64 (the same run in float64)
A run's optimizer is "sgd" (lr, momentum, nesterov, weight_decay) or "adamw" (lr, beta1, beta2, eps, weight_decay); clip,
where positive, is the largest norm of all gradients together (torch.nn.utils.clip_grad_norm_); with decay_all false,
weight decay leaves parameters of rank 1 and pos_embed alone. No dropout, no drop-path.
"""

import json
import math
import os
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

BATCH, SIZE, CLASSES, STEPS = 8, 128, 100, 10
GAMMA = np.uint64(0x9E3779B97F4A7C15)


def u(name, n):
    h = 0xCBF29CE484222325
    for c in name.encode():
        h = (h ^ c) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(h) + (np.arange(n, dtype=np.uint64) + np.uint64(1)) * GAMMA
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z = z ^ z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1


def start_value(name, shape):
    n = math.prod(shape)
    v = u(name, n)
    if name == "pos_embed":
        v = v * 0.5
    elif len(shape) > 1:
        v = v * math.sqrt(3 * (2 if len(shape) == 4 else 1) / (n // shape[0]))
    elif name.endswith(".running_var"):
        v = 1 + 0.5 * v
    elif name.endswith(".weight"):
        v = 1 + 0.25 * v
    else:
        v = 0.1 * v
    return torch.from_numpy(v.astype(np.float32).reshape(shape))


def images():
    x = u("images", BATCH * 3 * SIZE * SIZE).reshape(BATCH, 3, SIZE, SIZE) * 0.5
    b = u("blocks", BATCH * 3 * (SIZE // 16) ** 2).reshape(BATCH, 3, SIZE // 16, SIZE // 16)
    return torch.from_numpy((x + b.repeat(16, axis=2).repeat(16, axis=3)).astype(np.float32))


class SimpleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(64, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 256, 1), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(256, 128, 1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 512, 1), nn.ReLU(),
        )
        self.fc = nn.Linear(512, CLASSES)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):  # [B H W D]
        b, h, w, d = x.shape
        q, k, v = self.qkv(x).view(b, h * w, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, h, w, d))


class VitBlock(nn.Module):
    def __init__(self, dim, heads, window):
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})

    def forward(self, x):
        y = self.norm1(x)
        if self.window:
            n, h, w, d = y.shape
            p = self.window
            assert h % p == 0 and w % p == 0
            y = y.view(n, h // p, p, w // p, p, d).transpose(2, 3).reshape(-1, p, p, d)
            y = self.attn(y)
            y = y.view(n, h // p, w // p, p, p, d).transpose(2, 3).reshape(n, h, w, d)
        else:
            y = self.attn(y)
        x = x + y
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class SimpleViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 8, 8, 192))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, 192, 16, 16)})
        self.blocks = nn.Sequential(*[VitBlock(192, 4, 4 if i in (0, 2) else 0) for i in range(4)])
        self.head = nn.Linear(192, CLASSES)

    def forward(self, x):
        x = self.patch_embed["proj"](x).permute(0, 2, 3, 1) + self.pos_embed
        return self.head(self.blocks(x).mean((1, 2)))


class BasicBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        cin = 64
        for i, cout in enumerate([64, 128, 256, 512]):
            setattr(self, f"layer{i + 1}", nn.Sequential(BasicBlock(cin, cout, min(i + 1, 2)), BasicBlock(cout, cout, 1)))
            cin = cout
        self.fc = nn.Linear(512, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def at_start(net, dtype):
    net = net().to(dtype)
    for name, t in list(net.named_parameters()) + list(net.named_buffers()):
        if not name.endswith("num_batches_tracked"):
            t.data.copy_(start_value(name, tuple(t.shape)))
    return net


def run(net, spec, dtype):
    """The losses before each of STEPS updates."""
    net, x, target = at_start(net, dtype), images().to(dtype), labels()
    named = list(net.named_parameters())
    plain = [p for n, p in named if not spec["decay_all"] and (p.dim() == 1 or n == "pos_embed")]
    decayed = [p for n, p in named if not any(p is q for q in plain)]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}] if plain else [{"params": decayed}]
    if spec["optimizer"] == "sgd":
        o = torch.optim.SGD(groups, spec["lr"], spec["momentum"], 0, spec["weight_decay"], spec["nesterov"])
    else:
        o = torch.optim.AdamW(groups, spec["lr"], (spec["beta1"], spec["beta2"]), spec["eps"], spec["weight_decay"])
    losses = []
    for _ in range(STEPS):
        loss = F.cross_entropy(net(x), target)
        o.zero_grad()
        loss.backward()
        if spec["clip"] > 0:
            torch.nn.utils.clip_grad_norm_(net.parameters(), spec["clip"])
        o.step()
        losses.append(loss.item())
    return losses


def labels():
    return torch.tensor([(37 * n + 11) % CLASSES for n in range(BATCH)])


def sgd(lr, nesterov=False, clip=0.0, decay_all=True):
    return {"optimizer": "sgd", "lr": lr, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 1e-4, "clip": clip, "decay_all": decay_all}


def adamw(lr, clip=0.0, decay_all=True):
    return {"optimizer": "adamw", "lr": lr, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.05, "clip": clip, "decay_all": decay_all}


def golden(arch, net, specs):
    g = {"arch": arch, "classes": CLASSES, "batch": BATCH, "size": SIZE, "torch": torch.__version__}
    model, x = at_start(net, torch.float64), images().double()
    with torch.no_grad():
        g["logits_eval"] = model.eval()(x).tolist()
    logits = model.train()(x)
    loss = F.cross_entropy(logits, labels())
    loss.backward()
    g["logits_train"], g["loss"] = logits.tolist(), loss.item()
    g["gradients"] = [
        {"name": n, "shape": list(p.shape), "norm": p.grad.norm().item(),
         "probe": (p.grad.flatten() * torch.from_numpy(u(n + "/probe", p.numel()))).sum().item()}
        for n, p in sorted(model.named_parameters())
    ]
    g["buffers"] = [
        {"name": n, "shape": list(t.shape), "norm": t.norm().item()}
        for n, t in sorted(model.named_buffers()) if not n.endswith("num_batches_tracked")
    ]
    g["runs"] = []
    for spec in specs:
        single, double = run(net, spec, torch.float32), run(net, spec, torch.float64)
        print(arch, spec["optimizer"], "losses", " ".join(f"{v:.4f}" for v in single),
              f"float32 is off by {max(abs(a - b) for a, b in zip(single, double)):.1e}")
        g["runs"].append(spec | {"losses": single, "losses_float64": double})
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), arch + ".json"), "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in g.items()) + "\n}\n")


if __name__ == "__main__":
    torch.set_num_threads(2)
    # The rates keep float32's own drift over the ten updates well below 1e-4: kinks of ReLU and max-pool amplify rounding.
    wanted = sys.argv[1:] or ["simplenet", "simplevit", "resnet18"]
    if "simplenet" in wanted:
        golden("simplenet", SimpleNet, [sgd(0.002), sgd(0.01, nesterov=True, clip=1.0, decay_all=False)])
    if "simplevit" in wanted:
        golden("simplevit", SimpleViT, [adamw(1e-4), adamw(3e-4, clip=1.0, decay_all=False)])
    if "resnet18" in wanted:
        golden("resnet18", ResNet18, [sgd(0.001, clip=1.0), adamw(1e-4)])

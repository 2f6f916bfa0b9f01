"""Compares what `mp doctor --compute DEVICE --save FILE` kept with PyTorch on the same kind of device, and prints a table.

    gpucheck.py FILE cuda|cpu

Networks: logits and all gradients of one pass, from the same weights and images. Attacks: what fgsm, bim and mifgsm make of
the same images. Both sides are held to PyTorch's float64; mp may be off by as much as PyTorch's own float32, times a few, since
rounding crosses other kinks of ReLU and max-pool and flips other signs. Exit status 1: something is further off.
"""

import os
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "model", "testdata"))
import generate  # noqa: E402

FEW = 5  # times PyTorch's own error that mp may be off


class SceneBlock(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.downsample = None
        if stride != 1 or cin != cout:
            pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
            self.downsample = nn.Sequential(pool, nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class SceneNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        )
        cin = 64
        for i, (cout, blocks) in enumerate([(64, 1), (128, 1), (256, 2), (384, 1)]):
            layer = []
            for j in range(blocks):
                layer.append(SceneBlock(cin, cout, 2 if i > 0 and j == 0 else 1))
                cin = cout
            setattr(self, f"layer{i + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(cin, generate.CLASSES)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


NETS = {"simplenet": generate.SimpleNet, "simplevit": generate.SimpleViT, "resnet18": generate.ResNet18, "scenenet": SceneNet}


def loaded(kept, arch, dtype, device):
    net = NETS[arch]()
    state = {k.removeprefix(arch + "/weights/"): v for k, v in kept.items() if k.startswith(arch + "/weights/")}
    lacks = net.load_state_dict(state, strict=False)
    # Running statistics are not kept: a training pass does without them.
    assert not lacks.unexpected_keys and all("running" in k or "num_batches" in k for k in lacks.missing_keys), f"{arch}: {lacks}"
    return net.to(device, dtype)


def off(got, want):
    got, want = got.double().cpu(), want.double().cpu()
    return ((got - want).norm() / want.norm()).item()


def one_pass(kept, arch, dtype, device):
    net, x = loaded(kept, arch, dtype, device).train(), kept[arch + "/images"].to(device, dtype)
    logits = net(x)
    labels = torch.tensor([7 * i % generate.CLASSES for i in range(len(x))], device=device)
    F.cross_entropy(logits, labels).backward()
    return logits.detach(), torch.cat([p.grad.flatten() for _, p in sorted(net.named_parameters())])


def attacked(kept, name, dtype, device):
    """The linf attack called name from the clean image: eps 8/255, as mp's defaults with at most 8 steps."""
    net, x = loaded(kept, "simplenet", dtype, device).eval(), kept["attacked"].to(device, dtype)
    mean, std = (torch.tensor(v, device=device, dtype=dtype).view(1, 3, 1, 1) for v in ([.5, .4, .6], [.25, .2, .3]))
    labels = torch.tensor([3 * i for i in range(len(x))], device=device)
    eps, steps = 8 / 255, 1 if name == "fgsm" else 8
    step = eps if name == "fgsm" else 2.5 * eps / steps
    moved, total = x.clone(), torch.zeros_like(x)

    def gradient(z):
        z = z.clone().requires_grad_(True)
        return torch.autograd.grad(F.cross_entropy(net((z - mean) / std), labels, reduction="sum"), z)[0]

    for _ in range(steps):
        g = gradient(moved)
        if name == "mifgsm":
            total = total + g / g.abs().mean((1, 2, 3), keepdim=True)
            g = total
        moved = (x + (moved + step * g.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return moved


def main(path, device):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    kept, bad = load_file(path), 0
    print(f"{'mp beside PyTorch ' + torch.__version__ + ', ' + device:44} {'mp':>9} {'PyTorch':>9}  verdict")

    def row(what, mp, theirs, floor):
        nonlocal bad
        good = mp <= max(FEW * theirs, floor)
        bad += not good
        print(f"{what:44} {mp:9.1e} {theirs:9.1e}  {'ok' if good else 'FURTHER OFF'}", flush=True)

    for arch in NETS:
        want, theirs = one_pass(kept, arch, torch.float64, device), one_pass(kept, arch, torch.float32, device)
        gradients = torch.cat([v.flatten() for k, v in sorted(kept.items()) if k.startswith(arch + "/gradients/")])
        row(f"{arch}, logits", off(kept[arch + "/logits"], want[0]), off(theirs[0], want[0]), 1e-5)
        row(f"{arch}, all gradients", off(gradients, want[1]), off(theirs[1], want[1]), 1e-3)
    for name in ("fgsm", "bim", "mifgsm"):
        want, theirs = attacked(kept, name, torch.float64, device).cpu(), attacked(kept, name, torch.float32, device).cpu()
        share = [((x - want).abs() > 1e-5).double().mean().item() for x in (kept["attacks/" + name], theirs)]
        row(f"{name}, share of values that differ", *share, 5e-3)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Compares mp attack with torchattacks on the same weights and images, and prints a table in Markdown, a row as soon as it is known.

    compare.py --mp ./mp --data miniplaces --checkpoint simplenet_44.02.pth.tar [--images 500] [--eps 0.25/255,0.5/255,1/255]

Both sides attack the same images of the validation list in float32 with the same steps, restarts and rivals; images that are not
recognised as they are need no attack, so neither side spends time on them. A row says which part of all images is still
recognised: as mp says, as PyTorch says of mp's images, and as PyTorch says of torchattacks' images; then by how much mp is
weaker, in images of a hundred (negative: stronger), and the seconds of both.
`make attack-compare` fetches torchattacks into a folder, which the variable TORCHATTACKS names, and calls this.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import load_file
from torch import nn

sys.path.extend(filter(None, os.environ.get("TORCHATTACKS", "").split(os.pathsep)))  # behind what is installed
import torchattacks  # noqa: E402


class SimpleNet(nn.Module):
    """The reference's SimpleNet, with the normalisation inside."""

    def __init__(self, classes=100):
        super().__init__()
        self.register_buffer("mean", torch.tensor([.485, .456, .406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([.229, .224, .225]).view(1, 3, 1, 1))
        layers, width = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
        for i, (a, b, c) in enumerate([(64, 64, 256), (128, 128, 512)]):
            if i:
                layers.append(nn.MaxPool2d(3, 2, 1))
            layers += [nn.Conv2d(width, a, 1), nn.ReLU(), nn.Conv2d(a, b, 3, 1, 1), nn.ReLU(), nn.Conv2d(b, c, 1), nn.ReLU()]
            width = c
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(self.features((x - self.mean) / self.std).mean((2, 3)))


def load(path):
    """A PyTorch file of the reference, or what `mp checkpoint convert RUN F.safetensors` writes."""
    state = load_file(path) if path.endswith(".safetensors") else torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    net = SimpleNet()
    lacks = net.load_state_dict({k.removeprefix("module."): v for k, v in state.items()}, strict=False)
    assert set(lacks.missing_keys) == {"mean", "std"} and not lacks.unexpected_keys, f"{path} is no SimpleNet: {lacks}"
    return net.eval().to(memory_format=torch.channels_last)


class Ensemble:
    """AutoAttack's standard: torchattacks' own takes ten steps of each attack, its authors a hundred."""

    def __init__(self, net, eps, members):
        self.net, self.members = net, [make(net, eps) for make in members]

    def __call__(self, x, y):
        x = x.clone()
        for member in self.members:
            left = standing(self.net, x, y)
            if len(left):
                changed = member(x[left], y[left])
                with torch.no_grad():
                    broken = self.net(changed).argmax(1) != y[left]
                x[left[broken]] = changed[broken]
        return x


def theirs(steps, rivals, queries):
    """torchattacks' twin of each of our attacks, a function of network and eps."""
    def apgd_ce(net, eps):
        return torchattacks.APGD(net, eps=eps, steps=steps, n_restarts=1, loss="ce", rho=.75)

    def apgd_t(net, eps):
        return torchattacks.APGDT(net, eps=eps, steps=steps, n_restarts=1, rho=.75, n_classes=rivals + 1)

    def fab_t(net, eps):
        return torchattacks.FAB(net, eps=eps, steps=steps, n_restarts=1, multi_targeted=True, n_classes=rivals + 1)

    def square(net, eps):
        return torchattacks.Square(net, eps=eps, n_queries=queries, n_restarts=1, resc_schedule=False)

    return {
        "fgsm": lambda net, eps: torchattacks.FGSM(net, eps=eps),
        "bim": lambda net, eps: torchattacks.BIM(net, eps=eps, alpha=2.5 * eps / 10, steps=10),
        "mifgsm": lambda net, eps: torchattacks.MIFGSM(net, eps=eps, alpha=2.5 * eps / 10, steps=10, decay=1.0),
        "pgd": lambda net, eps: torchattacks.PGD(net, eps=eps, alpha=2.5 * eps / 20, steps=20, random_start=True),
        "apgd-ce": apgd_ce,
        "apgd-t": apgd_t,
        "fab-t": fab_t,
        "square": square,
        "autoattack": lambda net, eps: Ensemble(net, eps, [apgd_ce, apgd_t, fab_t, square]),
    }


def standing(net, x, y):
    """The places of the images that are recognised."""
    with torch.no_grad():
        return torch.cat([net(a).argmax(1) == b for a, b in zip(x.split(50), y.split(50))]).nonzero().flatten()


def recognised(net, x, y):
    return len(standing(net, x, y)) * 100 / len(y)


def ours(options, attack, eps, where):
    """Runs mp and returns its row of the result and the images."""
    file = os.path.join(where, "set.safetensors")
    command = [options.mp, "attack", options.data, "--checkpoint", options.checkpoint, "--attack", attack, "--eps", eps,
               "--images", str(options.images), "--threads", str(options.threads), "--save", file, "--json", "--quiet"]
    if attack == "square":
        command += ["--steps", str(options.queries)]
    if attack in ("apgd-ce", "apgd-t", "fab-t", "autoattack"):
        command += ["--steps", str(options.steps)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout)["rows"][0], load_file(file)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mp", default="./mp")
    p.add_argument("--data", required=True)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--images", type=int, default=500)
    p.add_argument("--eps", default="0.25/255,0.5/255,1/255")
    p.add_argument("--attacks", default="fgsm,pgd,apgd-ce,apgd-t,fab-t,square,autoattack")
    p.add_argument("--steps", type=int, default=100, help="of apgd, fab and autoattack")
    p.add_argument("--queries", type=int, default=5000, help="of square alone; autoattack takes 50 a step")
    p.add_argument("--rivals", type=int, default=9, help="classes that apgd-t and fab-t try")
    p.add_argument("--threads", type=int, default=2)
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    net = load(options.checkpoint)
    print("| attack | eps | images | clean | mp | mp's, by PyTorch | torchattacks | weaker by | s, mp | s, torchattacks |\n" + "|---" * 10 + "|", flush=True)
    worst = -100.0
    for attack in options.attacks.split(","):
        for eps in options.eps.split(","):
            with tempfile.TemporaryDirectory() as where:
                row, found = ours(options, attack, eps, where)
            x = found["clean"].permute(0, 3, 1, 2).contiguous().float() / 255  # as torchattacks wants them
            y = found["labels"]
            above, _, below = eps.partition("/")
            radius = float(above) / float(below or 1)
            assert (found["images"] - x).abs().max() <= radius * 1.0001 + 1e-7, "mp left the ball"
            queries = options.steps * 50 if attack == "autoattack" else options.queries
            other = theirs(options.steps, options.rivals, queries)[attack](net, radius)
            began, changed = time.time(), x.clone()
            for at in standing(net, x, y).split(50):
                torch.manual_seed(0)
                changed[at] = other(x[at], y[at])
            took = time.time() - began
            assert (changed - x).abs().max() <= radius * 1.0001 + 1e-7, "torchattacks left the ball"
            here, there = recognised(net, found["images"], y), recognised(net, changed, y)
            worst = max(worst, here - there)
            print(f"| {attack} | {eps} | {len(y)} | {recognised(net, x, y):.1f} | {row['top1']:.1f} | {here:.1f} | {there:.1f} | {here - there:+.1f} | "
                  f"{row['seconds']:.1f} | {took:.1f} |", flush=True)
    print(f"\nWeakest: {worst:+.1f} of 100 images (at most +1 is asked for).")
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()

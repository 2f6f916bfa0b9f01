"""Compares mp explain with captum on the same weights and images, in float64, and prints a table in Markdown.

    compare.py --mp ./mp --data miniplaces --checkpoint simplenet_44.02.pth.tar [--images 10]

What is printed of a method is the largest absolute difference over the largest absolute value of captum's, the worst image's.
`make explain-compare` fetches captum into a folder, which the variable CAPTUM names, and calls this.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from torch import nn

sys.path.extend(filter(None, [os.environ.get("CAPTUM")]))  # behind what is installed
from captum import attr, metrics  # noqa: E402

BOTTLENECKS = [(64, 64, 256), (128, 128, 512)]


def simplenet(classes=100):
    """The reference's SimpleNet."""
    layers, width = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for i, (a, b, c) in enumerate(BOTTLENECKS):
        if i:
            layers.append(nn.MaxPool2d(3, 2, 1))
        layers += [nn.Conv2d(width, a, 1), nn.ReLU(), nn.Conv2d(a, b, 3, 1, 1), nn.ReLU(), nn.Conv2d(b, c, 1), nn.ReLU()]
        width = c
    net = nn.Sequential()
    net.features = nn.Sequential(*layers)
    net.pool = nn.AdaptiveAvgPool2d(1)
    net.flat = nn.Flatten()
    net.fc = nn.Linear(width, classes)
    return net


GAMMA = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def mix(z):
    """SplitMix64's finaliser, of a number or an array."""
    if isinstance(z, int):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key(seed, sample):
    """explain.Key."""
    rotated = ((sample << 32) | (sample >> 32)) & MASK
    return mix(mix((seed + GAMMA) & MASK) ^ rotated)


def normal(keys, purpose, draw):
    """The noise [N 3 128 128] that mp draws: ops.Normal with the keys of a draw."""
    out = []
    for k in keys:
        own = mix((k + (purpose << 32) + draw + 1) & MASK)
        at = np.arange(1, 3 * 128 * 128 + 1, dtype=np.uint64)
        u = (mix(np.uint64(own) + at * np.uint64(GAMMA)) >> np.uint64(11)).astype(np.float64) + 0.5
        out.append(torch.special.ndtri(torch.from_numpy(u * 2.0**-53)).reshape(3, 128, 128))
    return torch.stack(out)


SMOOTH, INFIDELITY = 0, 2  # purposes of draws in explain/gradient.go


def explain(o, folder, methods, *more):
    """What mp finds: tensors by name, and its table."""
    path = os.path.join(folder, "maps.safetensors")
    out = subprocess.run([o.mp, "explain", o.data, "--checkpoint", o.checkpoint, "--images", str(o.images), "--precision", "fp64",
                          "--method", methods, "--maps", path, "--json", *more], check=True, stdout=subprocess.PIPE)
    return {k: torch.from_numpy(v) for k, v in load_file(path).items()}, json.loads(out.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mp", default="./mp")
    parser.add_argument("--data", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--images", type=int, default=10)
    o = parser.parse_args()
    net = simplenet()
    net.load_state_dict(torch.load(o.checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    # Laid out N H W C, as mp computes: in flat parts of an image several elements of a max-pool's window are equal but for the
    # last bit, and which of them gets the gradient depends on how the convolution before adds up.
    net = net.double().eval().to(memory_format=torch.channels_last)
    rows, bad = [], 0

    def compare(name, ours, theirs, note=""):
        nonlocal bad
        ours, theirs = ours.flatten(1), theirs.detach().flatten(1)
        worst = ((ours - theirs).abs().amax(1) / theirs.abs().amax(1)).max().item()
        bad += not worst <= 1e-5
        rows.append((name, worst, note))

    with tempfile.TemporaryDirectory() as folder:
        ours, _ = explain(o, folder, "saliency,inputxgradient,integratedgradients,gradcam,guidedbackprop,occlusion,smoothgrad")
        pixels, target = ours["images"].double() / 255, ours["labels"]
        mean, std = (torch.tensor(np.float32(v)).double() for v in ([.485, .456, .406], [.229, .224, .225]))
        x = ((pixels - mean) / std).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        assert torch.equal(net(x).argmax(1), target), "captum's side predicts other classes"

        def loss(x):
            return F.cross_entropy(net(x), target, reduction="none")

        compare("Saliency", ours["saliency"], attr.Saliency(loss).attribute(x).amax(1, keepdim=True), "of the loss, largest channel")
        compare("InputXGradient", ours["inputxgradient"], attr.InputXGradient(net).attribute(x, target=target))
        compare("IntegratedGradients", ours["integratedgradients"],
                attr.IntegratedGradients(net).attribute(x, target=target, n_steps=50, internal_batch_size=10), "50 points, Gauss-Legendre")
        compare("LayerGradCam", ours["gradcam"],
                attr.LayerGradCam(net, net.features[15]).attribute(x, target=target, relu_attributions=True), "last rectifier, features.15")
        compare("GuidedBackprop", ours["guidedbackprop"], attr.GuidedBackprop(net).attribute(x, target=target))
        compare("Occlusion", ours["occlusion"].expand(-1, 3, -1, -1),
                attr.Occlusion(net).attribute(x, sliding_window_shapes=(3, 16, 16), strides=(3, 8, 8), target=target), "window 16, stride 8")
        keys = [key(0, i) for i in range(len(x))]
        spread = .15 * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
        smooth = sum(attr.Saliency(net).attribute(x + spread * normal(keys, SMOOTH, j), target=target, abs=False) for j in range(25)) / 25
        compare("Saliency, mean of noisy copies", ours["smoothgrad"], smooth, "SmoothGrad, our noise, 25 copies")
        other, _ = explain(o, folder, "gradcam", "--layer", "features.10")
        compare("LayerGradCam", other["gradcam"],
                attr.LayerGradCam(net, net.features[10]).attribute(x, target=target, relu_attributions=True), "a convolution, features.10")

        ours, _ = explain(o, folder, "saliency,inputxgradient", "--scores")
        for method in ("saliency", "inputxgradient"):
            draw = [0]

            def perturb(inputs):
                noise = .05 * normal(keys, INFIDELITY, draw[0])
                draw[0] += 1
                return noise, inputs - noise

            theirs = metrics.infidelity(net, perturb, x, ours[method].expand(-1, 3, -1, -1).contiguous(), target=target,
                                        n_perturb_samples=32, max_examples_per_batch=len(x), normalize=True)
            compare("infidelity of " + method, ours["infidelity." + method][:, None], theirs[:, None], "normalised, our noise, 32 draws")

    import captum
    print(f"captum {captum.__version__}, torch {torch.__version__}, float64, {o.images} images\n")
    print("| captum | largest relative difference | of |\n|---|---|---|")
    for name, worst, note in rows:
        print(f"| {name} | {worst:.1e} | {note} |")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

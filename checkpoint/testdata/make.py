"""Makes the small files of this folder with PyTorch and the safetensors library, which the tests compare with.

Run by hand: build/venv/bin/python checkpoint/testdata/make.py checkpoint/testdata
For each NAME.pth, NAME.model.safetensors and NAME.optimizer.safetensors hold what reading it must give.
"""
import collections
import os
import sys

import torch
from safetensors.torch import save_file

out = sys.argv[1]
torch.manual_seed(3)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.fc = torch.nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.stem(x))).mean((2, 3)))


def train(make_optimizer, steps):
    net = Net()
    optimizer = make_optimizer(net)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.randn(6, 3, 8, 8)), torch.arange(6) % 5).backward()
        optimizer.step()
    return net, optimizer


def expect(name, model, optimizer=None):
    save_file({k: v.contiguous() for k, v in model.items()}, f"{out}/{name}.model.safetensors", {"format": "pt"})
    if optimizer:
        save_file(optimizer, f"{out}/{name}.optimizer.safetensors", {"format": "pt"})


def named(net, optimizer, keys):
    names = [n for n, _ in net.named_parameters()]
    state = optimizer.state_dict()["state"]
    found = {f"{short}.{n}": state[i][key] for key, short in keys.items() for i, n in enumerate(names)}
    if "step" in state[0]:
        found["step"] = torch.tensor(int(state[0]["step"]), dtype=torch.int64)
    return found


# The reference's own layout, SGD with momentum.
net, sgd = train(lambda n: torch.optim.SGD(n.parameters(), 0.05, momentum=0.9, weight_decay=1e-4), 3)
torch.save({"epoch": 7, "model_arch": "tiny", "state_dict": net.state_dict(), "best_acc1": torch.tensor(12.5),
            "optimizer": sgd.state_dict()}, f"{out}/sgd.pth")
expect("sgd", net.state_dict(), named(net, sgd, {"momentum_buffer": "momentum"}))

# The same in the format before PyTorch 1.6, with the names of a parallel wrapper.
torch.save({"epoch": 7, "arch": "tiny", "state_dict": collections.OrderedDict(
    ("module." + k, v) for k, v in net.state_dict().items()), "best_acc1": 12.5, "optimizer": sgd.state_dict()},
    f"{out}/legacy.pth", _use_new_zipfile_serialization=False)
expect("legacy", net.state_dict(), named(net, sgd, {"momentum_buffer": "momentum"}))

# AdamW in two groups, in another order than the modules, with and without names; newest pickle protocol.
def grouped(with_names):
    def make(n):
        decay = [(k, p) if with_names else p for k, p in n.named_parameters() if p.dim() > 1]
        rest = [(k, p) if with_names else p for k, p in n.named_parameters() if p.dim() <= 1]
        return torch.optim.AdamW([{"params": rest, "weight_decay": 0.0}, {"params": decay}], 1e-3)
    return make


net, adamw = train(grouped(False), 1)
torch.save({"epoch": 2, "state_dict": net.state_dict(), "optimizer": adamw.state_dict()}, f"{out}/groups.pth", pickle_protocol=3)
expect("groups", net.state_dict())
net, adamw = train(grouped(True), 4)
torch.save({"epoch": 2, "model_arch": "tiny", "state_dict": net.state_dict(), "best_acc1": 3.0,
            "optimizer": adamw.state_dict()}, f"{out}/adamw.pth", pickle_protocol=5)
order = [k for k, p in net.named_parameters() if p.dim() <= 1] + [k for k, p in net.named_parameters() if p.dim() > 1]
state = adamw.state_dict()["state"]
moments = {f"{key}.{k}": state[i][key] for i, k in enumerate(order) for key in ("exp_avg", "exp_avg_sq")}
expect("adamw", net.state_dict(), moments | {"step": torch.tensor(4, dtype=torch.int64)})

# A state dictionary alone: every element type, views, channels_last, scalars, empty, shared and parameter entries.
base = torch.randn(6, 8)
bare = collections.OrderedDict(
    transposed=base.t(), rows=base[1:5:2, 2:7], shared=base, last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    scalar=torch.tensor(2.5, dtype=torch.float64), empty=torch.zeros(0, 3), parameter=torch.nn.Parameter(torch.randn(3)),
    half=torch.tensor([1.5, -2.25, 6e-8, 65504.0], dtype=torch.float16), brain=torch.tensor([1.5, -3e38], dtype=torch.bfloat16),
    long=torch.tensor([-1, 2**40]), int=torch.tensor([-7, 9], dtype=torch.int32),
    byte=torch.tensor([0, 255], dtype=torch.uint8), bool=torch.tensor([True, False, True]))
torch.save(bare, f"{out}/bare.pth")
expect("bare", {k: v.detach().clone() for k, v in bare.items()})

# A file that would run a program when Python's pickle loads it.
class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/executed",)


torch.save({"epoch": 1, "state_dict": net.state_dict(), "extra": Evil()}, f"{out}/evil.pth")

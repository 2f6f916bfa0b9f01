package checkpoint

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// PyTorch and the safetensors library take our files as they are.
func TestPythonLoadsOurFiles(t *testing.T) {
	interpreter := python(t)
	dir := t.TempDir()
	s := mustRead(t, "testdata/sgd.pth")
	path := mustWrite(t, dir, "ours", s)
	for _, name := range []string{"out.safetensors", "out.pth"} {
		if err := Export(filepath.Join(dir, name), s); err != nil {
			t.Fatal(err)
		}
	}
	all := mustRead(t, "testdata/bare.pth")
	if err := Export(filepath.Join(dir, "bare.pth"), all); err != nil {
		t.Fatal(err)
	}
	const script = `
import sys, json, hashlib, torch
from safetensors.torch import load_file, save_file
ours, folder = sys.argv[1:3]
torch.manual_seed(0)
net = torch.nn.Sequential()
net.stem, net.norm, net.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5)
want = torch.load("testdata/sgd.pth", weights_only=True)
def same(a, b):
    assert list(sorted(a)) == list(sorted(b)), (sorted(a), sorted(b))
    for k in b:
        assert a[k].dtype == b[k].dtype and a[k].shape == b[k].shape, k
        assert a[k].contiguous().view(-1).view(torch.uint8).equal(b[k].contiguous().view(-1).view(torch.uint8)), k
for source in ours + "/model.safetensors", folder + "/out.safetensors":
    state = load_file(source)
    net.load_state_dict(state)
    same(net.state_dict(), want["state_dict"])
momenta = load_file(ours + "/optimizer.safetensors")
for i, (name, p) in enumerate(net.named_parameters()):
    assert momenta["momentum." + name].equal(want["optimizer"]["state"][i]["momentum_buffer"]), name
save_file(load_file(ours + "/model.safetensors"), folder + "/again.safetensors", {"format": "pt"})
assert open(ours + "/model.safetensors", "rb").read() == open(folder + "/again.safetensors", "rb").read()
pth = torch.load(folder + "/out.pth", weights_only=True)
net.load_state_dict(pth["state_dict"])
same(pth["state_dict"], want["state_dict"])
assert (pth["epoch"], pth["model_arch"], pth["best_acc1"]) == (7, "tiny", 12.5), pth
bare = torch.load("testdata/bare.pth", weights_only=True)
same(torch.load(folder + "/bare.pth", weights_only=True, mmap=True)["state_dict"], bare)
digest = hashlib.sha256()
names = {torch.float32: "F32", torch.int64: "I64"}
for k, v in sorted(want["state_dict"].items()):
    digest.update(f"{len(k)} {k} {names[v.dtype]} [{' '.join(map(str, v.shape))}]\n".encode() + v.numpy().tobytes())
assert digest.hexdigest() == json.load(open(ours + "/manifest.json"))["digest"]
print("ok")
`
	out, err := exec.Command(interpreter, "-c", script, path, dir).CombinedOutput()
	if err != nil || string(out) != "ok\n" {
		t.Errorf("Python: %v\n%s", err, out)
	}
}

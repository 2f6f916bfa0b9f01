package model

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// moments returns mean, deviation and the largest absolute value.
func moments(v []float32) (mean, std, bound float64) {
	for _, x := range v {
		mean += float64(x) / float64(len(v))
	}
	for _, x := range v {
		std += (float64(x) - mean) * (float64(x) - mean) / float64(len(v))
		bound = max(bound, math.Abs(float64(x)))
	}
	return mean, math.Sqrt(std), bound
}

func TestFirstValuesFollowPyTorchsFormulas(t *testing.T) {
	const n = 200000
	for _, c := range []struct {
		name       string
		init       initialiser
		std, bound float64 // bound of the absolute value; 0: unbounded
	}{
		{"kaiming uniform, fan in 147", kaimingUniform(147), 1 / math.Sqrt(3*147), 1 / math.Sqrt(147)},
		{"kaiming normal, fan out 576", kaimingNormal(576), math.Sqrt(2. / 576), 0},
		{"truncated normal 0.02", truncNormal(0.02), 0.02, 0},
		{"truncated normal 1", truncNormal(1), 0.87963, 2},    // deviation of a standard normal within 2
		{"truncated normal 100", truncNormal(100), 1.1547, 2}, // nearly uniform
	} {
		v := make([]float32, n)
		c.init(newStream(7, c.name), v)
		mean, std, bound := moments(v)
		if math.Abs(mean) > 4*c.std/math.Sqrt(n) {
			t.Errorf("%s: mean %g, want 0 within 4 standard errors", c.name, mean)
		}
		if math.Abs(std/c.std-1) > 0.01 {
			t.Errorf("%s: deviation %g, want %g", c.name, std, c.std)
		}
		if c.bound > 0 && (bound > c.bound*1.000001 || bound < c.bound*0.995) {
			t.Errorf("%s: largest value %g, want nearly %g", c.name, bound, c.bound)
		}
		if c.bound == 0 && (bound < 4*c.std || bound > 6.5*c.std) {
			t.Errorf("%s: largest of %d values is %g deviations, want 4 to 6.5", c.name, n, bound/c.std)
		}
		var fourth float64 // kurtosis tells a normal (3) from a uniform (1.8)
		for _, x := range v {
			fourth += math.Pow(float64(x)/std, 4) / n
		}
		if want := map[bool]float64{true: 3, false: 1.8}[strings.Contains(c.name, "normal")]; c.bound == 0 || want < 2 {
			if math.Abs(fourth-want) > 0.1 {
				t.Errorf("%s: kurtosis %g, want %g", c.name, fourth, want)
			}
		}
	}
}

func TestFirstValuesDependOnSeedAndNameAlone(t *testing.T) {
	draw := func(seed uint64, name string) float64 { return newStream(seed, name).open() }
	if draw(1, "fc.weight") != draw(1, "fc.weight") {
		t.Error("the same seed and name give different values")
	}
	seen := map[float64]bool{}
	for seed := range uint64(20) {
		for _, name := range []string{"fc.weight", "fc.bias", "features.0.weight", "features.0.bias"} {
			seen[draw(seed, name)] = true
		}
	}
	if len(seen) != 80 {
		t.Errorf("80 streams start with %d different values", len(seen))
	}
	// The values themselves are part of every run that names a seed: a change here changes all results.
	if got, want := draw(0, "fc.weight"), -0.4515411106; math.Abs(got-want) > 1e-9 {
		t.Errorf("first number of (0, fc.weight) is %.10f, want %.10f", got, want)
	}
}

func TestKeysOfLayersDiffer(t *testing.T) {
	seen := map[uint64]bool{}
	for layer := range uint64(8) {
		for _, k := range mixKeys([]uint64{1, 2, 3}, layer) {
			seen[k] = true
		}
	}
	if len(seen) != 24 {
		t.Errorf("24 keys are %d different ones", len(seen))
	}
}

// torchDefaults prints deviation, mean and largest value of PyTorch's own initialisations.
const torchDefaults = `
import json, math, torch, torch.nn as nn
torch.manual_seed(0)
def figures(t): return [t.mean().item(), t.std().item(), t.abs().max().item()]
c, l = nn.Conv2d(64, 512, 3), nn.Linear(512, 1000)
k, p = torch.empty(128, 64, 3, 3), torch.empty(192, 1024)
nn.init.kaiming_normal_(k, mode="fan_out", nonlinearity="relu")
nn.init.trunc_normal_(p, std=.02)
print(json.dumps({"conv.weight": figures(c.weight), "conv.bias": figures(c.bias), "linear.weight": figures(l.weight),
  "linear.bias": figures(l.bias), "kaiming": figures(k), "positions": figures(p)}))`

func TestFirstValuesLookLikePyTorchs(t *testing.T) {
	python := filepath.Join("..", "build", "venv", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		t.Skip("no PyTorch: run `make venv`")
	}
	out, err := exec.Command(python, "-c", torchDefaults).Output()
	if err != nil {
		t.Fatal(err)
	}
	var theirs map[string][3]float64
	if err := json.Unmarshal(out, &theirs); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	b := &builder{trace: &trace{}}
	b.conv("conv", conv2d{In: 64, Out: 512, Kernel: 3})
	b.linear("linear", 512, 1000)
	b.weight("kaiming", kaimingNormal(128*3*3), 128, 64, 3, 3)
	b.weight("positions", truncNormal(.02), 192, 1024)
	for _, p := range b.params {
		v := p.first(3)
		mean, std, bound := moments(v)
		want := theirs[p.Name]
		error1 := want[1] / math.Sqrt(float64(len(v))) // one standard error of a mean
		if math.Abs(mean-want[0]) > 6*error1 || math.Abs(std/want[1]-1) > 4/math.Sqrt(float64(len(v))) || math.Abs(bound/want[2]-1) > 0.2 {
			t.Errorf("%s: mean, deviation, largest value are %.4g %.4g %.4g, PyTorch's %.4g", p.Name, mean, std, bound, want)
		}
	}
}

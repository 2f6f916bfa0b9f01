package checkpoint

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mp/internal/shared"
)

// compareTensors reports every difference between two lists in name order, to the bit.
func compareTensors(t *testing.T, got, want []Tensor) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("got %d tensors, want %d", len(got), len(want))
		return
	}
	for i, w := range want {
		g := got[i]
		if g.Name != w.Name || g.DType != w.DType || g.ShapeString() != w.ShapeString() {
			t.Errorf("tensor %d: got %s %v %s, want %s %v %s", i, g.Name, g.DType, g.ShapeString(), w.Name, w.DType, w.ShapeString())
		} else if !bytes.Equal(g.Data, w.Data) {
			t.Errorf("tensor %s: data differs", w.Name)
		}
	}
}

func mustRead(t *testing.T, path string) *State {
	t.Helper()
	s, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Files of torch.save against what the safetensors library wrote for the same tensors.
func TestReadTorch(t *testing.T) {
	for _, c := range []struct {
		name           string
		meta           Meta
		optimizer, why bool
	}{
		{"sgd", Meta{Arch: "tiny", Epoch: 7, BestTop1: 12.5, LR: 0.05, Momentum: 0.9, WeightDecay: 1e-4}, true, false},
		{"legacy", Meta{Arch: "tiny", Epoch: 7, BestTop1: 12.5, LR: 0.05, Momentum: 0.9, WeightDecay: 1e-4}, true, false},
		{"adamw", Meta{Arch: "tiny", Epoch: 2, Step: 4, BestTop1: 3, LR: 1e-3}, true, false},
		{"groups", Meta{Epoch: 2, LR: 1e-3}, false, true},
		{"bare", Meta{}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := mustRead(t, "testdata/"+c.name+".pth")
			compareTensors(t, got.Model, mustRead(t, "testdata/"+c.name+".model.safetensors").Model)
			if c.optimizer {
				compareTensors(t, got.Optimizer, mustRead(t, "testdata/"+c.name+".optimizer.safetensors").Model)
			} else if len(got.Optimizer) != 0 {
				t.Errorf("got %d optimizer tensors, want none", len(got.Optimizer))
			}
			if noted := got.OptimizerNote != ""; noted != c.why {
				t.Errorf("got the note %q, want one: %v", got.OptimizerNote, c.why)
			}
			c.meta.Source = "pytorch"
			if g, w := metaText(t, got.Meta), metaText(t, c.meta); g != w {
				t.Errorf("got meta\n%s, want\n%s", g, w)
			}
		})
	}
}

// Nothing in a file is executed: it is refused by the name of what it wants to run.
func TestReadTorchRefusesPrograms(t *testing.T) {
	os.Remove("/tmp/executed")
	_, err := Read("testdata/evil.pth")
	if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), `"system"`) || !strings.Contains(err.Error(), `"posix"`) {
		t.Errorf("got %v, want ErrFormat naming posix and system", err)
	}
	if exists("/tmp/executed") {
		t.Error("the program in the file ran")
	}
}

// A file cut short anywhere is an error that says so, and damage never more than an error. (Without a checksum, as in
// the old format, a changed weight is just another weight.)
func TestReadTorchDamaged(t *testing.T) {
	for _, name := range []string{"sgd", "legacy", "adamw"} {
		whole, err := os.ReadFile("testdata/" + name + ".pth")
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(whole); n += 17 {
			if _, err := decodeFile(bytes.NewReader(whole[:n]), int64(n)); !errors.Is(err, ErrFormat) {
				t.Fatalf("%s cut to %d bytes: got %v, want ErrFormat", name, n, err)
			}
		}
		for n := 0; n < len(whole); n += 11 {
			b := bytes.Clone(whole)
			b[n] ^= 0x10
			if _, err := decodeFile(bytes.NewReader(b), int64(len(b))); err != nil && !errors.Is(err, ErrFormat) {
				t.Fatalf("%s with byte %d changed: got %v, want ErrFormat", name, n, err)
			}
		}
	}
	// The zip container has checksums: a changed weight is found.
	b, err := os.ReadFile("testdata/sgd.pth")
	if err != nil {
		t.Fatal(err)
	}
	weight, _ := Find(mustRead(t, "testdata/sgd.pth").Model, "stem.weight")
	b[bytes.Index(b, weight.Data)] ^= 1
	if _, err := decodeFile(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a changed weight: got %v, want ErrFormat about the checksum", err)
	}
}

func TestReadForeignFiles(t *testing.T) {
	tar := make([]byte, 1024)
	copy(tar[257:], "ustar")
	for _, c := range []struct {
		what, want string
		data       []byte
	}{
		{"empty", "empty", nil},
		{"gzip", "unpack it first", []byte("\x1f\x8b\x08\x00rest")},
		{"tar", "tar archive", tar},
		{"pickle", "bare Python pickle", []byte("\x80\x04N.")},
		{"lfs pointer", "git lfs pull", []byte("version https://git-lfs.github.com/spec/v1\n")},
		{"text", "not a safetensors file", []byte("hello, I am a text file of some length\n")},
		{"zip", "no data.pkl", zipOf(t, map[string]string{"a.txt": "hello"})},
		{"zip with a list", "holds a list", zipOf(t, map[string]string{"a/data.pkl": "\x80\x02]."})},
		{"zip without tensors", "no tensors", zipOf(t, map[string]string{"a/data.pkl": "\x80\x02}."})},
		{"zip with a number", "is a int", zipOf(t, map[string]string{"a/data.pkl": "\x80\x02}X\x01\x00\x00\x00aK\x01s."})},
	} {
		path := filepath.Join(t.TempDir(), "f.pth.tar")
		if err := os.WriteFile(path, c.data, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Read(path)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want ErrFormat with %q and the path", c.what, err, c.want)
		}
	}
	if _, err := Read(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, ErrFormat) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: got %v, want ErrFormat and ErrNotExist", err)
	}
}

// What we write for PyTorch, read back by our own reader.
func TestExportTorchRoundTrip(t *testing.T) {
	for _, ending := range []string{".pth", ".pt", ".pth.tar", ".safetensors"} {
		s := mustRead(t, "testdata/bare.pth")
		s.Meta.Arch, s.Meta.Epoch, s.Meta.BestTop1 = "tiny", 9, 44.5
		path := filepath.Join(t.TempDir(), "out"+ending)
		if err := Export(path, s); err != nil {
			t.Fatal(err)
		}
		got := mustRead(t, path)
		compareTensors(t, got.Model, s.Model)
		got.Meta.Source = s.Meta.Source
		if g, w := metaText(t, got.Meta), metaText(t, s.Meta); g != w {
			t.Errorf("%s: got meta %s, want %s", ending, g, w)
		}
	}
	if err := Export(filepath.Join(t.TempDir(), "out.bin"), &State{}); !errors.Is(err, ErrFormat) {
		t.Errorf("unknown ending: got %v, want ErrFormat", err)
	}
}

// The reference's published checkpoints.
func TestReadReference(t *testing.T) {
	dir := filepath.Join(shared.Dir(t), "checkpoints")
	s := mustRead(t, filepath.Join(dir, "simplenet_44.02.pth.tar"))
	parameters := Parameters(s.Model)
	if len(s.Model) != 16 || parameters != 365028 || s.Meta.Arch != "simplenet" || s.Meta.Epoch != 58 || s.Meta.BestTop1 != 44.02 || len(s.Optimizer) != 0 {
		t.Errorf("simplenet_44.02: got %d tensors, %d parameters, %+v, %d optimizer tensors", len(s.Model), parameters, s.Meta, len(s.Optimizer))
	}
	s = mustRead(t, filepath.Join(dir, "simplenet_ownconv_10ep_22.57_with_optimizer.pth.tar"))
	if len(s.Optimizer) != 16 || s.OptimizerNote != "" || s.Meta.Epoch != 10 || s.Meta.BaseLR != 0.1 || s.Meta.Momentum != 0.9 || s.Meta.WeightDecay != 1e-4 {
		t.Errorf("own convolution: got %d optimizer tensors (%s), %+v", len(s.Optimizer), s.OptimizerNote, s.Meta)
	}
	for _, x := range s.Model {
		if m, ok := Find(s.Optimizer, "momentum."+x.Name); !ok || m.ShapeString() != x.ShapeString() {
			t.Errorf("momentum of %s: found %v, shape %s, want %s", x.Name, ok, m.ShapeString(), x.ShapeString())
		}
	}
	s = mustRead(t, filepath.Join(dir, "resnet18_imagenet_partial.safetensors"))
	if w, ok := Find(s.Model, "conv1.weight"); len(s.Model) != 82 || !ok || w.ShapeString() != "64x3x7x7" {
		t.Errorf("resnet18: got %d tensors, conv1.weight %s", len(s.Model), w.ShapeString())
	}
}

package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func addFiles(f *testing.F, pattern string) {
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		f.Fatalf("%s: %v, %d files", pattern, err, len(paths))
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// Whatever the bytes are: an error of the format, or tensors that the writer takes and that read back the same. Each
// input is tried as it is and with the length of the header made right, so that the parser behind it is reached.
func FuzzSafetensors(f *testing.F) {
	addFiles(f, "testdata/*.safetensors")
	f.Fuzz(func(t *testing.T, b []byte) {
		checkSafetensors(t, b)
		if end := bytes.LastIndexByte(b, '}') + 1; end > 8 {
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint64(b, uint64(end-8))
			checkSafetensors(t, b)
		}
	})
}

func checkSafetensors(t *testing.T, b []byte) {
	tensors, metadata, err := decodeBytes(b)
	if err != nil {
		if !errors.Is(err, ErrFormat) {
			t.Fatalf("got %v, want ErrFormat", err)
		}
		return
	}
	var again bytes.Buffer
	if err := encodeSafetensors(&again, tensors, metadata); err != nil {
		t.Fatal(err)
	}
	got, _, err := decodeBytes(again.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	compareTensors(t, got, tensors)
}

func FuzzPickle(f *testing.F) {
	for _, name := range []string{"sgd", "adamw", "bare", "groups", "evil"} {
		b, err := os.ReadFile("testdata/" + name + ".pth")
		if err != nil {
			f.Fatal(err)
		}
		from := bytes.Index(b, []byte("\x80"))
		f.Add(b[from:min(len(b), from+3000)])
	}
	f.Add([]byte("\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01G\x40\x04\x00\x00\x00\x00\x00\x00C\x02xyK\x03\x85eK\x07\x8a\x01\xffu."))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, n, err := unpickle(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("got %v, want ErrFormat", err)
			}
			return
		}
		if n < 1 || n > len(b) {
			t.Fatalf("took %d of %d bytes", n, len(b))
		}
		collectStorages(v, map[string]DType{}, map[any]bool{})
	})
}

// A whole file of any format that is told by its content, and an archive made around a fuzzed pickle and storage,
// whose checksums are right.
func FuzzZip(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.pth")
	if err != nil || len(paths) == 0 {
		f.Fatalf("%v, %d files", err, len(paths))
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte("\x80\x02}."), []byte("12345678"))
	}
	var p pickler
	x := FromFloat32s("fc.weight", []int64{1, 2}, []float32{1, 2})
	p.raw("\x80\x02}(")
	p.text("optimizer")
	p.raw("}(")
	p.text("param_groups")
	p.raw("]}(")
	p.text("params")
	p.raw("](K\x00eua")
	p.text("state")
	p.raw("}(K\x00}(")
	p.text("momentum_buffer")
	p.tensor(0, x)
	p.raw("uuu")
	p.text("state_dict")
	p.raw("}(")
	p.text(x.Name)
	p.tensor(0, x)
	p.raw("uu.")
	whole := zipOf(f, map[string]string{"a/data.pkl": p.b.String(), "a/data/0": string(x.Data)})
	if s, err := decodeFile(bytes.NewReader(whole), int64(len(whole))); err != nil || len(s.Model) != 1 || len(s.Optimizer) != 1 {
		f.Fatalf("the seed is not a checkpoint: %v", err)
	}
	f.Add(whole, p.b.Bytes(), x.Data)
	f.Fuzz(func(t *testing.T, file, pickle, storage []byte) {
		checkFile(t, file)
		checkFile(t, zipOf(t, map[string]string{"a/data.pkl": string(pickle), "a/data/0": string(storage)}))
	})
}

func checkFile(t *testing.T, b []byte) {
	s, err := decodeFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		if !errors.Is(err, ErrFormat) {
			t.Fatalf("got %v, want ErrFormat", err)
		}
		return
	}
	var out bytes.Buffer
	if err := encodeSafetensors(&out, s.Model, nil); err != nil {
		t.Fatal(err)
	}
	if err := encodeSafetensors(&out, s.Optimizer, nil); err != nil {
		t.Fatal(err)
	}
}

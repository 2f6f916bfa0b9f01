package checkpoint

import (
	"bytes"
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

// Whatever the bytes are: an error of the format, or tensors that the writer takes and that read back the same.
func FuzzSafetensors(f *testing.F) {
	addFiles(f, "testdata/*.safetensors")
	f.Fuzz(func(t *testing.T, b []byte) {
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
	})
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

// A whole file of any format that is told by its content: the zip container above all.
func FuzzZip(f *testing.F) {
	addFiles(f, "testdata/*.pth")
	f.Fuzz(func(t *testing.T, b []byte) {
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
	})
}

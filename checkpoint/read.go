package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Read loads what lies at path, which may be
//   - a checkpoint's directory, or a file inside it;
//   - a run's directory or its checkpoints directory (the checkpoint that `latest` names), or one of the pointer files
//     latest and best themselves;
//   - a .safetensors file, with or without what Export stores of Meta in it;
//   - a file of PyTorch's torch.save (.pth, .pt, .pth.tar), of any version since 0.4.
//
// What it is, is decided by its content, not by its name. Every checksum is compared. Errors name the file and what
// to do; they match ErrFormat when the file is at fault or missing.
func Read(path string) (*State, error) {
	s, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("read checkpoint %s: %w", path, notThere(err))
	}
	return s, nil
}

// notThere makes a missing file match ErrFormat.
func notThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrFormat) {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return err
}

func read(path string) (*State, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if dir := filepath.Dir(path); isPointer(path, info) {
			target, err := pointed(dir, filepath.Base(path))
			if err != nil {
				return nil, err
			}
			return readOffering(target)
		} else if belongs(dir, filepath.Base(path)) {
			return readOffering(dir)
		}
		return readFile(path)
	}
	if exists(filepath.Join(path, manifestName)) {
		return readOffering(path)
	}
	dir := checkpointsDir(path)
	if dir == path && !exists(filepath.Join(dir, latestName)) {
		return nil, malformed("the folder holds no %s and no %s: give a checkpoint's or a run's folder", manifestName, checkpointsName)
	}
	target, err := pointed(dir, latestName)
	if err != nil {
		return nil, offer(dir, "", err)
	}
	return readOffering(target)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func isPointer(path string, info fs.FileInfo) bool {
	base := filepath.Base(path)
	return (base == latestName || base == bestName) && info.Size() < 256
}

// belongs tells whether the file called name is part of the checkpoint in dir.
func belongs(dir, name string) bool {
	return (name == manifestName || name == modelName || name == optimizerName) && exists(filepath.Join(dir, manifestName))
}

// readOffering reads the checkpoint in dir; if that fails, the error offers the newest whole one beside it.
func readOffering(dir string) (*State, error) {
	s, err := readDir(dir)
	if err != nil {
		return nil, offer(filepath.Dir(dir), dir, err)
	}
	return s, nil
}

// offer adds to err what to do: use the newest whole checkpoint in dir, other than except.
func offer(dir, except string, err error) error {
	if !errors.Is(notThere(err), ErrFormat) {
		return err
	}
	if path, _ := newestWhole(dir, except); path != "" {
		return fmt.Errorf("%w; the newest whole checkpoint beside it is %s: use that one", err, path)
	}
	return fmt.Errorf("%w; no other checkpoint is beside it: copy it again from where it came", err)
}

// verify compares the checksums of the checkpoint in dir without loading it.
func verify(dir string) error {
	m, err := readManifest(dir)
	if err != nil {
		return err
	}
	for name := range m.Files {
		if err := func() error {
			f, size, err := openRegular(filepath.Join(dir, name))
			if err != nil {
				return notThere(err)
			}
			defer f.Close()
			sum := sha256.New()
			if _, err := io.Copy(sum, f); err != nil {
				return err
			}
			return m.compare(dir, name, fileMark{size, hex.EncodeToString(sum.Sum(nil))})
		}(); err != nil {
			return err
		}
	}
	return nil
}

// readDir loads the checkpoint in dir.
func readDir(dir string) (*State, error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	load := func(name string) ([]Tensor, error) {
		if _, listed := m.Files[name]; !listed {
			return nil, nil
		}
		f, size, err := openRegular(filepath.Join(dir, name))
		if err != nil {
			return nil, notThere(err)
		}
		defer f.Close()
		if want := m.Files[name].Size; size != want {
			return nil, m.compare(dir, name, fileMark{Size: size})
		}
		sum := sha256.New()
		tensors, _, err := decodeSafetensors(io.TeeReader(f, sum), size)
		if err == nil || errors.Is(err, ErrFormat) {
			// The checksum is the better message: finish it also when the content made no sense.
			if _, err := io.Copy(sum, f); err != nil {
				return nil, err
			}
			if err := m.compare(dir, name, fileMark{size, hex.EncodeToString(sum.Sum(nil))}); err != nil {
				return nil, err
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), err)
		}
		return tensors, nil
	}
	s := &State{Meta: m.Meta}
	s.Meta.Source = "mp"
	if s.Model, err = load(modelName); err != nil {
		return nil, err
	}
	if s.Optimizer, err = load(optimizerName); err != nil {
		return nil, err
	}
	return s, nil
}

// openRegular opens a file whose size means something: not a device, a pipe or a directory.
func openRegular(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = malformed("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// readFile loads a single file, recognised by its first bytes.
func readFile(path string) (*State, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size == 0 {
		return nil, malformed("the file is empty")
	}
	return decodeFile(f, size)
}

// decodeFile recognises the format of a file and reads it.
func decodeFile(r io.ReaderAt, size int64) (*State, error) {
	head := make([]byte, min(size, 512))
	if n, err := r.ReadAt(head, 0); err != nil && n < len(head) {
		return nil, shortRead(err)
	}
	switch {
	case strings.HasPrefix(string(head), "PK\x03\x04"), strings.HasPrefix(string(head), legacyStart):
		return decodeTorch(r, size)
	case strings.HasPrefix(string(head), "\x1f\x8b"):
		return nil, malformed("the file is compressed with gzip: unpack it first")
	case len(head) > 262 && string(head[257:262]) == "ustar":
		return nil, malformed("the file is a tar archive (PyTorch's format before 0.1.10, or packed files): unpack it, or save it again with torch.save")
	case len(head) > 1 && head[0] == 0x80 && head[1] <= 5:
		return nil, malformed("the file is a bare Python pickle, not a file of torch.save: save it again with torch.save")
	case strings.HasPrefix(string(head), "version https://git-lfs"):
		return nil, malformed("the file is a Git LFS pointer, not the checkpoint itself: fetch it with git lfs pull")
	}
	tensors, metadata, err := decodeSafetensors(io.NewSectionReader(r, 0, size), size)
	if err != nil {
		return nil, err
	}
	if len(tensors) == 0 {
		return nil, malformed("the file holds no tensors")
	}
	s := &State{Model: tensors, Meta: Meta{Source: "safetensors"}}
	if text, ok := metadata[exportMetaKey]; ok {
		if err := json.Unmarshal([]byte(text), &s.Meta); err != nil {
			return nil, malformed("%s in the file's metadata is damaged: %w", exportMetaKey, err)
		}
		if want, got := metadata[exportDigestKey], Digest(tensors); want != got {
			return nil, malformed("the weights have digest %.12s, the file says %.12s: its bytes are damaged", got, want)
		}
	}
	return s, nil
}

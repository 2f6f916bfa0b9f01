package checkpoint

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Names of temporary and doomed entries start so; Prune removes what a killed process left of them.
const (
	temporaryPrefix = ".writing-"
	doomedPrefix    = ".removing-"
)

// Write stores s as the directory dir/name and returns its path. When Write returns nil, every byte is on the disk;
// when it returns an error, or the process or machine dies, nothing called name exists. A name that is taken is not
// replaced: the checkpoint is then called name-2, name-3, ...
//
// Nothing points to the new checkpoint until SetLatest or SetBest. One process at a time may write to dir.
func Write(dir, name string, s *State) (path string, err error) {
	return writeWith(createFile, dir, name, s)
}

// file is what writing needs of an *os.File; tests put a full disk in its place.
type file interface {
	io.WriteCloser
	Sync() error
}

type creator func(path string) (file, error)

func createFile(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
}

func writeWith(create creator, dir, name string, s *State) (path string, err error) {
	defer func() {
		if err != nil {
			path, err = "", fmt.Errorf("write checkpoint %s: %w", filepath.Join(dir, name), advise(err))
		}
	}()
	if !validName(name) {
		return "", malformed("%q cannot name a checkpoint: choose another name", name)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	temporary, err := os.MkdirTemp(dir, temporaryPrefix)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(temporary)
		}
	}()
	// MkdirTemp makes the directory private; a checkpoint has the mode of any other result.
	if err := os.Chmod(temporary, 0o755); err != nil {
		return "", err
	}
	m := manifest{Version: manifestVersion, Serial: max(nextSerial(dir), s.Meta.Step), Meta: s.Meta, Digest: Digest(s.Model), Files: map[string]fileMark{}}
	parts := map[string][]Tensor{modelName: s.Model}
	if len(s.Optimizer) > 0 {
		parts[optimizerName] = s.Optimizer
	}
	for name, tensors := range parts {
		m.Files[name], err = writeFile(create, filepath.Join(temporary, name), func(w io.Writer) error {
			return encodeSafetensors(w, tensors, map[string]string{"format": "pt"})
		})
		if err != nil {
			return "", err
		}
	}
	text, err := m.encode()
	if err != nil {
		return "", err
	}
	_, err = writeFile(create, filepath.Join(temporary, manifestName), func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
	if err != nil {
		return "", err
	}
	if err := syncDir(temporary); err != nil {
		return "", err
	}
	path = freeName(dir, name)
	if err := os.Rename(temporary, path); err != nil {
		return "", err
	}
	if err := syncDir(dir); err != nil {
		os.RemoveAll(path)
		return "", err
	}
	return path, nil
}

// writeFile creates path, lets fill write it, and returns its size and checksum once the bytes are durable. After an
// error the file may be there in part: the caller removes it.
func writeFile(create creator, path string, fill func(io.Writer) error) (mark fileMark, err error) {
	f, err := create(path)
	if err != nil {
		return fileMark{}, err
	}
	sum := sha256.New()
	out := &counter{w: io.MultiWriter(f, sum)}
	buffered := bufio.NewWriterSize(out, 1<<20)
	err = fill(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fileMark{}, err
	}
	return fileMark{out.n, hex.EncodeToString(sum.Sum(nil))}, nil
}

// advise adds what to do to the error of a full disk. Everything half-written is gone by then.
func advise(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w; nothing was left behind: free some space and start the same again", err)
	}
	return err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// replaceFile puts a file at path in one step: whoever opens it sees the old bytes or the new ones, also after a crash.
func replaceFile(create creator, path string, fill func(io.Writer) error) (err error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	temporary := filepath.Join(dir, fmt.Sprintf("%s%s-%d", temporaryPrefix, base, os.Getpid()))
	os.Remove(temporary)
	if _, err := writeFile(create, temporary, fill); err != nil {
		os.Remove(temporary)
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		os.Remove(temporary)
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in a directory durable. Some file systems cannot and say EINVAL: there is nothing to do then.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if pe, ok := err.(*os.PathError); ok && pe.Err == syscall.EINVAL {
		err = nil
	}
	if closing := d.Close(); err == nil {
		err = closing
	}
	return err
}

// validName keeps names inside their folder and apart from the pointers and from temporary entries.
func validName(name string) bool {
	return name != "" && len(name) < 200 && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, "/\\\n\x00") &&
		name != latestName && name != bestName
}

// freeName returns dir/name, or the first of dir/name-2, dir/name-3, ... that does not exist.
func freeName(dir, name string) string {
	path := filepath.Join(dir, name)
	for i := 2; ; i++ {
		if _, err := os.Lstat(path); err != nil {
			return path
		}
		path = filepath.Join(dir, fmt.Sprintf("%s-%d", name, i))
	}
}

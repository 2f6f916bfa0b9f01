package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Store keeps objects under keys (words with slashes between) apart from the machines that train: NewFolder makes one of a
// folder on another disk, package s3 one of storage that speaks S3. Methods may be called from any goroutine; they block until
// they have worked, the store says no, or ctx ends.
type Store interface {
	// Put stores size bytes, one or more, under key, durably and in one step: whoever reads gets what was there before or all of these, also
	// when the writer is killed.
	Put(ctx context.Context, key string, from io.Reader, size int64) error
	// Get returns what lies under key; the error matches fs.ErrNotExist where nothing does. Close it.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// List returns the keys below dir, DIR/..., in order.
	List(ctx context.Context, dir string) ([]string, error)
	// Remove removes what lies under key, if anything does.
	Remove(ctx context.Context, key string) error
	// Sweep removes what killed writers left half-written below dir. Nobody may be writing there.
	Sweep(ctx context.Context, dir string) error
}

// folder is a Store in a folder: a key is a path.
type folder struct{ dir string }

// NewFolder returns the Store in a folder, which is made when something is stored.
func NewFolder(dir string) Store { return folder{dir} }

func (f folder) path(key string) (string, error) {
	if !filepath.IsLocal(key) {
		return "", fmt.Errorf("key %q leads out of %s", key, f.dir)
	}
	return filepath.Join(f.dir, key), nil
}

func (f folder) Put(ctx context.Context, key string, from io.Reader, size int64) error {
	path, err := f.path(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	err = replaceFile(createFile, path, func(w io.Writer) error {
		n, err := io.Copy(w, whileLasts{ctx, from})
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes came instead of %d", n, size)
		}
		return err
	})
	for dir := filepath.Dir(path); err == nil && dir != filepath.Clean(f.dir); { // the names of folders that were made
		dir = filepath.Dir(dir)
		err = syncDir(dir)
	}
	return err
}

// whileLasts reads until ctx ends.
type whileLasts struct {
	ctx context.Context
	io.Reader
}

func (r whileLasts) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func (f folder) Get(_ context.Context, key string) (io.ReadCloser, error) {
	path, err := f.path(key)
	if err != nil {
		return nil, err
	}
	file, _, err := openRegular(path)
	return file, err
}

func (f folder) List(ctx context.Context, dir string) (keys []string, err error) {
	err = f.walk(ctx, dir, func(path, name string) error {
		key, err := filepath.Rel(f.dir, path)
		if !strings.HasPrefix(name, ".") {
			keys = append(keys, filepath.ToSlash(key))
		}
		return err
	})
	slices.Sort(keys) // by the whole key, not folder by folder
	return keys, err
}

func (f folder) Remove(_ context.Context, key string) error {
	path, err := f.path(key)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for path = filepath.Dir(path); path != filepath.Clean(f.dir) && os.Remove(path) == nil; { // folders that are empty now
		path = filepath.Dir(path)
	}
	return nil
}

func (f folder) Sweep(ctx context.Context, dir string) error {
	return f.walk(ctx, dir, func(path, name string) error {
		if strings.HasPrefix(name, temporaryPrefix) {
			return os.Remove(path)
		}
		return nil
	})
}

// walk calls each with the files below dir, in order.
func (f folder) walk(ctx context.Context, dir string, each func(path, name string) error) error {
	root, err := f.path(dir)
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.Type().IsRegular():
			return each(path, d.Name())
		}
		return nil
	})
}

package data

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openPart opens PATH.part, the file that becomes path once it is complete, and locks it against other processes. Its
// name is fixed so that what a killed process left behind is found and written over, or resumed.
func openPart(path string) (*os.File, error) {
	part := path + ".part"
	for {
		f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EROFS) {
				return nil, badf("create %s: %w", path, err)
			}
			return nil, fmt.Errorf("create %s: %w", path, err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			return nil, fmt.Errorf("write %s: another process is writing it (%w)", path, err)
		}
		// Whoever held the lock may have renamed the file to its final name between our open and our lock.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(part)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return f, nil
		}
		f.Close()
	}
}

// commitPart makes f, opened by openPart, durable under its final name and closes it.
func commitPart(f *os.File, path string) error {
	if err := f.Sync(); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// dropPart removes f, opened by openPart, after a failure.
func dropPart(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}

// writeFile writes a small file in one piece, durably.
func writeFile(path string, content []byte) error {
	f, err := openPart(path)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.Write(content)
	}
	if err != nil {
		dropPart(f)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return commitPart(f, path)
}

// syncDir makes renames in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}

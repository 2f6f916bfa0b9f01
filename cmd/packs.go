package cmd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"mp/data"
	"mp/ops/pixel"
)

// decoder is libjpeg-turbo as the pack writer wants it.
type decoder struct{}

func (decoder) Decode(jpegs [][]byte, dst []byte) []error { return pixel.Decode(jpegs, dst) }

// openPack opens the pack of a split of dir: dir/SPLIT.pack, or the one that is made now from the MiniPlaces root in dir.
// A folder that cannot be written to gets its packs in the user's cache.
func openPack(ctx context.Context, e *env, dir string, split data.Split) (*data.Pack, error) {
	for _, folder := range packFolders(dir) {
		path := filepath.Join(folder, packFile(split))
		if _, err := os.Stat(path); err == nil {
			return data.OpenPack(path)
		}
	}
	root, err := data.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	var last error
	for _, folder := range packFolders(dir) {
		path := filepath.Join(folder, packFile(split))
		if last = os.MkdirAll(folder, 0o755); last != nil {
			continue
		}
		last = makePack(ctx, e, root, split, path)
		if last == nil {
			return data.OpenPack(path)
		}
		if !errors.Is(last, fs.ErrPermission) && !errors.Is(last, readOnly) {
			return nil, last
		}
	}
	return nil, last
}

func packFile(split data.Split) string { return string(split) + ".pack" }

// packFolders lists where the packs of dir may lie: in dir, else in the user's cache under a name made of dir's path.
func packFolders(dir string) []string {
	folders := []string{dir}
	cache, err := os.UserCacheDir()
	absolute, err2 := filepath.Abs(dir)
	if err == nil && err2 == nil {
		sum := sha256.Sum256([]byte(absolute))
		folders = append(folders, filepath.Join(cache, "mp", filepath.Base(absolute)+"-"+hex.EncodeToString(sum[:4])))
	}
	return folders
}

// makePack packs one split, with a progress bar.
func makePack(ctx context.Context, e *env, root *data.Root, split data.Split, path string) error {
	entries, err := root.Entries(split)
	if err != nil {
		return err
	}
	bar := e.progress("pack "+string(split), int64(len(entries)))
	before := 0
	err = data.WritePack(ctx, data.PackConfig{
		Root: root, Split: split, Path: path, Decoder: decoder{},
		Progress: func(done, _ int) { bar.Add(int64(done - before)); before = done },
	})
	bar.Finish()
	if err != nil {
		return fmt.Errorf("pack %s of %s: %w", split, root.Dir(), err)
	}
	return nil
}

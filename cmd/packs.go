package cmd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
		path := data.PackPath(folder, split)
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
		path := data.PackPath(folder, split)
		if last = os.MkdirAll(folder, 0o755); last != nil {
			continue
		}
		_, last = packSplit(ctx, e, data.PackConfig{Root: root, Split: split, Path: path, Decoder: decoder{}})
		if last == nil {
			return data.OpenPack(path)
		}
		if !errors.Is(last, fs.ErrPermission) && !errors.Is(last, readOnly) {
			return nil, last
		}
	}
	return nil, last
}

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

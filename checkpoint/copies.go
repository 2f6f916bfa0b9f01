package checkpoint

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Copies keep what a run can go on from in a Store, laid out as in the run's directory:
//
//	RUN/job.yaml
//	RUN/checkpoints/NAME/...     manifest.json is the last that comes and the first that goes
//	RUN/checkpoints/latest       and best: moved once what they name is whole
//
// For one goroutine; one process at a time may copy a run.
type Copies struct {
	store Store
	moved map[string]string // RUN/checkpoints/latest -> what this process let it name
}

// NewCopies returns the copies in a store.
func NewCopies(s Store) *Copies { return &Copies{store: s, moved: map[string]string{}} }

// Bounds of what is believed of a store.
const (
	maxManifest = 64 << 20
	maxJob      = 1 << 20
	jobName     = "job.yaml"
)

// Follow brings what the pointers of a run's directory name to its copies, unless they are there, lets the copies' pointers
// name it, and removes old copies by the rule of Prune. What is damaged here is not copied. It returns the names of the new
// copies, and costs nothing while nothing changes.
func (c *Copies) Follow(ctx context.Context, runDir string, keep int) (copied []string, err error) {
	run, dir := filepath.Base(runDir), filepath.Join(runDir, checkpointsName)
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy the checkpoints of %s: %w", run, err)
		}
	}()
	for _, pointer := range []string{bestName, latestName} {
		key := path.Join(run, checkpointsName, pointer)
		for again := true; again; {
			from, err := pointed(dir, pointer)
			if err != nil || c.moved[key] == filepath.Base(from) {
				break // nothing is there yet, or nothing new
			}
			if err := c.begin(ctx, run, runDir); err != nil {
				return copied, err
			}
			news, err := c.copy(ctx, run, from)
			if now, e := pointed(dir, pointer); err != nil && e == nil && now != from {
				continue // a newer one came, and this one was removed meanwhile
			}
			if err == nil {
				err = c.write(ctx, key, []byte(filepath.Base(from)+"\n"))
			}
			if err != nil {
				return copied, err
			}
			c.moved[key], again = filepath.Base(from), false
			if news {
				copied = append(copied, filepath.Base(from))
			}
		}
	}
	if len(copied) > 0 {
		err = c.prune(ctx, run, keep)
	}
	return copied, err
}

// begin is for the first time that a process copies something of a run.
func (c *Copies) begin(ctx context.Context, run, runDir string) error {
	if _, begun := c.moved[run]; begun {
		return nil
	}
	if err := c.store.Sweep(ctx, run); err != nil {
		return fmt.Errorf("remove what was left half-written: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(runDir, jobName))
	if err == nil {
		err = c.write(ctx, path.Join(run, jobName), text)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		c.moved[run] = ""
		return nil
	}
	return err
}

// copy brings one checkpoint, unless it is there.
func (c *Copies) copy(ctx context.Context, run, from string) (news bool, err error) {
	if err := verify(from); err != nil {
		return false, err
	}
	text, err := os.ReadFile(filepath.Join(from, manifestName))
	if err != nil {
		return false, err
	}
	to := path.Join(run, checkpointsName, filepath.Base(from))
	there, err := c.read(ctx, path.Join(to, manifestName), maxManifest)
	if err == nil && bytes.Equal(there, text) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := c.remove(ctx, to); err != nil { // another of that name, or half of one
		return false, err
	}
	m, err := readManifest(from)
	if err != nil {
		return false, err
	}
	for name := range m.Files {
		f, size, err := openRegular(filepath.Join(from, name))
		if err != nil {
			return false, err
		}
		err = c.store.Put(ctx, path.Join(to, name), f, size)
		f.Close()
		if err != nil {
			return false, fmt.Errorf("%s: %w", path.Join(to, name), err)
		}
	}
	return true, c.write(ctx, path.Join(to, manifestName), text)
}

func (c *Copies) write(ctx context.Context, key string, text []byte) error {
	if err := c.store.Put(ctx, key, bytes.NewReader(text), int64(len(text))); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func (c *Copies) read(ctx context.Context, key string, limit int64) ([]byte, error) {
	r, err := c.store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = malformed("%s has more than %d bytes", key, limit)
	}
	return text, err
}

// remove removes a checkpoint, or half of one: first what makes it whole.
func (c *Copies) remove(ctx context.Context, dir string) error {
	keys, err := c.store.List(ctx, dir)
	if err != nil {
		return err
	}
	for _, key := range append([]string{path.Join(dir, manifestName)}, keys...) {
		if err := c.store.Remove(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// stored is a checkpoint in a store, and what its manifest says.
type stored struct {
	name     string
	manifest manifest
	err      error // of the manifest
}

// list returns the checkpoints of a run by the rule of directories: the one that latest names, then those that a run can
// resume from, then the newest first.
func (c *Copies) list(ctx context.Context, run string) (all []stored, pointers map[string]string, err error) {
	base := path.Join(run, checkpointsName)
	keys, err := c.store.List(ctx, base)
	if err != nil {
		return nil, nil, err
	}
	pointers = map[string]string{}
	for _, pointer := range []string{latestName, bestName} {
		text, err := c.read(ctx, path.Join(base, pointer), 256)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		pointers[pointer] = strings.TrimSuffix(string(text), "\n")
	}
	for _, key := range keys {
		name, _, inside := strings.Cut(strings.TrimPrefix(key, base+"/"), "/")
		if !inside || !validName(name) || slices.ContainsFunc(all, func(o stored) bool { return o.name == name }) {
			continue
		}
		one := stored{name: name}
		text, err := c.read(ctx, path.Join(base, name, manifestName), maxManifest)
		if err == nil {
			one.manifest, err = parseManifest(path.Join(base, name, manifestName), text)
		}
		if one.err = notThere(err); err != nil && !errors.Is(one.err, ErrFormat) {
			return nil, nil, err
		}
		all = append(all, one)
	}
	slices.SortStableFunc(all, func(a, b stored) int { return cmp.Compare(b.manifest.Serial, a.manifest.Serial) })
	slices.SortStableFunc(all, func(a, b stored) int { return cmp.Compare(a.class(pointers), b.class(pointers)) })
	return all, pointers, nil
}

func (o stored) class(pointers map[string]string) int {
	switch {
	case o.name == pointers[latestName]:
		return 0
	case o.manifest.resumable():
		return 1
	}
	return 2
}

// prune removes all but the keep newest that a run can resume from and what the pointers name.
func (c *Copies) prune(ctx context.Context, run string, keep int) error {
	all, pointers, err := c.list(ctx, run)
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.manifest.resumable() && keep > 0 {
			keep--
			continue
		}
		if o.name != pointers[latestName] && o.name != pointers[bestName] {
			if err := c.remove(ctx, path.Join(run, checkpointsName, o.name)); err != nil {
				return fmt.Errorf("remove old copies: %w", err)
			}
		}
	}
	return nil
}

// Restore makes the directory runDir of the copies of a run: the newest checkpoint that is whole (every checksum is compared),
// the best one, and the job. RunDir appears with all of that or not at all, and must not exist. Name is the checkpoint to
// go on from; broken says why others were passed over. The error matches ErrFormat where no copy is whole.
func (c *Copies) Restore(ctx context.Context, run, runDir string) (name string, broken []error, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("restore %s from its copies: %w", run, err)
		}
	}()
	if _, err := os.Lstat(runDir); err == nil {
		return "", nil, malformed("%s is there already: go on with that one, or move it away", runDir)
	}
	all, pointers, err := c.list(ctx, run)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(filepath.Dir(runDir), 0o755); err != nil {
		return "", nil, err
	}
	temporary, err := os.MkdirTemp(filepath.Dir(runDir), temporaryPrefix)
	if err != nil {
		return "", nil, err
	}
	defer os.RemoveAll(temporary)
	dir := filepath.Join(temporary, checkpointsName)
	for _, o := range all {
		err := c.fetch(ctx, run, o, dir)
		if err == nil {
			name = o.name
			break
		}
		if broken = append(broken, err); !errors.Is(err, ErrFormat) { // nobody knows whether it is whole
			return "", broken, err
		}
	}
	if name == "" {
		return "", broken, errors.Join(append([]error{malformed("no copy is whole")}, broken...)...)
	}
	if err := SetLatest(dir, name); err != nil {
		return "", broken, err
	}
	if i := slices.IndexFunc(all, func(o stored) bool { return o.name == pointers[bestName] }); i >= 0 {
		if all[i].name != name {
			err = c.fetch(ctx, run, all[i], dir)
		}
		if err == nil {
			err = SetBest(dir, all[i].name)
		}
		if err != nil {
			broken = append(broken, err)
		}
	}
	text, err := c.read(ctx, path.Join(run, jobName), maxJob)
	if err == nil {
		err = os.WriteFile(filepath.Join(temporary, jobName), text, 0o644)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", broken, err
	}
	if err := errors.Join(os.Chmod(temporary, 0o755), syncDir(temporary), os.Rename(temporary, runDir)); err != nil {
		return "", broken, err
	}
	return name, broken, syncDir(filepath.Dir(runDir))
}

// fetch brings one checkpoint into the folder dir, whole or not at all.
func (c *Copies) fetch(ctx context.Context, run string, o stored, dir string) (err error) {
	to, from := filepath.Join(dir, o.name), path.Join(run, checkpointsName, o.name)
	defer func() {
		if err != nil {
			os.RemoveAll(to)
			err = fmt.Errorf("%s: %w", from, err)
		}
	}()
	if o.err != nil {
		return o.err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	sizes := map[string]int64{manifestName: maxManifest}
	for name, mark := range o.manifest.Files {
		sizes[name] = mark.Size
	}
	for name, size := range sizes {
		r, err := c.store.Get(ctx, path.Join(from, name))
		if err != nil {
			return notThere(err)
		}
		_, err = writeFile(createFile, filepath.Join(to, name), func(w io.Writer) error {
			_, err := io.Copy(w, io.LimitReader(r, size+1)) // one more than it should have is enough to see that it is another
			return err
		})
		r.Close()
		if err != nil {
			return err
		}
	}
	return errors.Join(verify(to), syncDir(to))
}

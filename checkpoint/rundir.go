package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// A run keeps its checkpoints in RUN/checkpoints: one directory each, and the small text files latest and best, which
// hold the name of one of them.
const (
	checkpointsName = "checkpoints"
	latestName      = "latest"
	bestName        = "best"
)

// SetLatest makes dir/latest name the checkpoint called name, in one durable step.
func SetLatest(dir, name string) error { return setPointer(createFile, dir, latestName, name) }

// SetBest makes dir/best name the checkpoint called name, in one durable step.
func SetBest(dir, name string) error { return setPointer(createFile, dir, bestName, name) }

func setPointer(create creator, dir, pointer, name string) error {
	if !validName(name) {
		return fmt.Errorf("point %s at %q: not the name of a checkpoint", filepath.Join(dir, pointer), name)
	}
	err := replaceFile(create, filepath.Join(dir, pointer), func(w io.Writer) error {
		_, err := io.WriteString(w, name+"\n")
		return err
	})
	if err != nil {
		return fmt.Errorf("point %s at %s: %w", filepath.Join(dir, pointer), name, advise(err))
	}
	return nil
}

// pointed returns the path of the checkpoint that dir/pointer names.
func pointed(dir, pointer string) (string, error) {
	path := filepath.Join(dir, pointer)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", malformed("%s is missing: no checkpoint was completed in this run", path)
	}
	if err != nil {
		return "", err
	}
	name := strings.TrimSuffix(string(b), "\n")
	if !validName(name) {
		return "", malformed("%s does not hold the name of a checkpoint", path)
	}
	return filepath.Join(dir, name), nil
}

// Latest returns the checkpoint to resume a run from: the one that `latest` names or, when that one is broken, the
// newest that is whole (every checksum is compared), one with optimizer state if there is one. runDir is the run's
// directory or its checkpoints directory. Broken says why others were passed over. The error matches ErrFormat when no
// checkpoint is whole.
func Latest(runDir string) (path string, broken []error, err error) {
	return choose(runDir, latestName)
}

// Best returns the checkpoint that `best` names, or as Latest another whole one when that is broken.
func Best(runDir string) (path string, broken []error, err error) { return choose(runDir, bestName) }

func choose(runDir, pointer string) (path string, broken []error, err error) {
	dir := checkpointsDir(runDir)
	path, err = pointed(dir, pointer)
	if err == nil {
		err = verify(path)
	}
	if err == nil {
		return path, nil, nil
	}
	other, broken := newestWhole(dir, path)
	broken = append([]error{err}, broken...)
	if other == "" {
		return "", broken, fmt.Errorf("find a checkpoint in %s: %w", dir, errors.Join(broken...))
	}
	return other, broken, nil
}

// newestWhole returns the newest whole checkpoint in dir, other than except: one that a run can resume from if there is
// one, else one of weights alone; "" when there is none. Broken says why others were passed over.
func newestWhole(dir, except string) (path string, broken []error) {
	all, err := inOrder(dir)
	if err != nil {
		return "", []error{notThere(err)}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].resumable && !all[j].resumable })
	for _, e := range all {
		if e.path == filepath.Clean(except) {
			continue
		}
		if err := verify(e.path); err != nil {
			broken = append(broken, err)
			continue
		}
		return e.path, broken
	}
	return "", broken
}

// Prune removes the checkpoints in dir except the keep newest that a run can resume from and the ones that latest and
// best name, and what a killed process left half-written. Checkpoints without optimizer state so go once nothing
// names them. Call it after SetLatest, from the process that writes to dir. Removed holds paths.
func Prune(dir string, keep int) (removed []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("remove old checkpoints of %s: %w", dir, err)
		}
	}()
	all, err := inOrder(dir)
	if err != nil {
		return nil, err
	}
	kept := 0
	for _, e := range all {
		if e.resumable && kept < keep {
			kept++
			continue
		}
		if isPointed(dir, e.path) {
			continue
		}
		// Renamed first, so that a crash in the middle of the removal leaves nothing that looks like a checkpoint.
		doomed := filepath.Join(dir, doomedPrefix+filepath.Base(e.path))
		if err := os.RemoveAll(doomed); err != nil {
			return removed, err
		}
		if err := os.Rename(e.path, doomed); err != nil {
			return removed, err
		}
		removed = append(removed, e.path)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return removed, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), doomedPrefix) || strings.HasPrefix(e.Name(), temporaryPrefix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return removed, err
			}
		}
	}
	return removed, nil
}

func isPointed(dir, path string) bool {
	for _, pointer := range []string{latestName, bestName} {
		if target, err := pointed(dir, pointer); err == nil && target == path {
			return true
		}
	}
	return false
}

// checkpointsDir accepts the run's directory or the directory of checkpoints itself.
func checkpointsDir(runDir string) string {
	inner := filepath.Join(runDir, checkpointsName)
	if info, err := os.Stat(inner); err == nil && info.IsDir() {
		return inner
	}
	return runDir
}

// entry is a checkpoint's directory and what its manifest says, without a look at the files.
type entry struct {
	path      string
	serial    int
	resumable bool
}

// inOrder returns the checkpoints in dir, newest first; those whose manifest cannot be read come last.
func inOrder(dir string) ([]entry, error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []entry
	for _, f := range found {
		if !f.IsDir() || !validName(f.Name()) {
			continue
		}
		e := entry{path: filepath.Join(dir, f.Name()), serial: -1}
		if m, err := readManifest(e.path); err == nil {
			e.serial, e.resumable = m.Serial, m.resumable()
		}
		all = append(all, e)
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].serial > all[j].serial })
	return all, nil
}

// nextSerial is one more than the highest serial in dir.
func nextSerial(dir string) int {
	all, err := inOrder(dir)
	if err != nil || len(all) == 0 {
		return 1
	}
	return max(all[0].serial, 0) + 1
}

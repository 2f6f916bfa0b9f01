package coordinator

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
)

// Names in a run's directory. Whatever begins with a dot is not whole.
const (
	arrivingDir    = ".arriving"          // parts of files
	checkpointsDir = "checkpoints"        // of package checkpoint
	stagePrefix    = ".arriving-"         // checkpoints/.arriving-NAME: a checkpoint whose manifest is missing
	doomedPrefix   = ".removing-"         // checkpoints/.removing-NAME: a checkpoint that is being removed
	manifestName   = "manifest.json"      // the last file of a checkpoint
	latestPointer  = "checkpoints/latest" // holds the name of a checkpoint
	bestPointer    = "checkpoints/best"
)

// Bounds of what a run may bring.
const (
	maxFileBytes    = 64 << 30
	maxPointerBytes = 256
	maxFilesPerJob  = 2000
)

var (
	errBadName = errors.New("not the name of a file of a run")
	errTaken   = errors.New("the checkpoint is whole already: nothing replaces it")
	errOffset  = errors.New("the part does not continue what has arrived")
	errSum     = errors.New("the bytes that arrived do not have the SHA-256 that was announced")
)

// shelf is the directories of runs of one node. Files appear in them whole and durable, or not at all. Its methods may be
// called from any goroutine; two arrivals of one file exclude each other.
type shelf struct {
	dir  string
	sync func(*os.File) error // replaced in tests: a disk that fails

	mu   sync.Mutex
	busy map[string]bool // directory/path of arrivals under way
}

func newShelf(dir string) *shelf {
	return &shelf{dir: dir, sync: (*os.File).Sync, busy: map[string]bool{}}
}

// checkElement refuses what is not one plain name of a file or directory.
func checkElement(e string) error {
	bad := e == "" || e[0] == '.' || len(e) > 200
	for _, r := range e {
		bad = bad || r < ' ' || r == 0x7f || r == '/' || r == '\\' || r == '\ufffd'
	}
	if bad {
		return fmt.Errorf("%q: %w", e, errBadName)
	}
	return nil
}

func checkPath(p string) error {
	elements := strings.Split(p, "/")
	if len(elements) > 6 {
		return fmt.Errorf("%q: %w", p, errBadName)
	}
	for _, e := range elements {
		if err := checkElement(e); err != nil {
			return err
		}
	}
	return nil
}

// checkpointOf returns the name of the checkpoint that a path belongs to, or "".
func checkpointOf(p string) string {
	elements := strings.Split(p, "/")
	if len(elements) != 3 || elements[0] != checkpointsDir {
		return ""
	}
	return elements[1]
}

// staged is where a file lies while its checkpoint is not whole.
func staged(p string) string {
	if name := checkpointOf(p); name != "" {
		return path.Join(checkpointsDir, stagePrefix+name, path.Base(p))
	}
	return p
}

// root opens the directory of a run; nothing that is done through it leads out of it.
func (s *shelf) root(directory string, create bool) (*os.Root, error) {
	if err := checkElement(directory); err != nil {
		return nil, err
	}
	runs, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	defer runs.Close()
	if create {
		if err := runs.Mkdir(directory, 0o755); err == nil {
			if err := s.syncDir(runs, "."); err != nil {
				return nil, err
			}
		} else if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return runs.OpenRoot(directory)
}

func (s *shelf) syncDir(r *os.Root, dir string) error {
	f, err := r.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.sync(f)
}

// open returns a whole file, and its size.
func (s *shelf) open(directory, p string) (*os.File, int64, error) {
	if err := checkPath(p); err != nil {
		return nil, 0, err
	}
	r, err := s.root(directory, false)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	f, err := r.Open(p)
	if errors.Is(err, fs.ErrNotExist) && staged(p) != p {
		f, err = r.Open(staged(p))
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", p, errBadName)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// digest returns the size and SHA-256 of a whole file.
func (s *shelf) digest(directory, p string) (size int64, sum string, err error) {
	f, size, err := s.open(directory, p)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err == nil && n != size {
		err = fmt.Errorf("%s changed while it was read", p)
	}
	return n, hex.EncodeToString(h.Sum(nil)), err
}

// wholeCheckpoint says whether a checkpoint lies there complete.
func (s *shelf) wholeCheckpoint(directory, name string) bool {
	f, _, err := s.open(directory, path.Join(checkpointsDir, name, manifestName))
	if err != nil {
		return false
	}
	defer f.Close()
	// Staged files open too: the manifest is staged for an instant before its checkpoint is renamed.
	return !strings.Contains(f.Name(), stagePrefix)
}

// mark is what is known of a file before it is whole.
type mark struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func partName(p string) string {
	h := sha256.Sum256([]byte(p))
	return path.Join(arrivingDir, hex.EncodeToString(h[:12]))
}

// partial returns what has arrived of a file that is not whole; the zero mark when nothing has.
func (s *shelf) partial(directory, p string) (m mark, have int64) {
	if checkPath(p) != nil {
		return mark{}, 0
	}
	r, err := s.root(directory, false)
	if err != nil {
		return mark{}, 0
	}
	defer r.Close()
	text, err := r.ReadFile(partName(p) + ".json")
	if err != nil || json.Unmarshal(text, &m) != nil || m.Path != p {
		return mark{}, 0
	}
	info, err := r.Stat(partName(p))
	if err != nil {
		return mark{}, 0
	}
	return m, info.Size()
}

// removeCheckpoint removes a checkpoint, whole or not.
func (s *shelf) removeCheckpoint(directory, name string) error {
	if err := checkElement(name); err != nil {
		return err
	}
	r, err := s.root(directory, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	// Renamed first, so that a crash in the middle of the removal leaves nothing that looks like a checkpoint.
	doomed := path.Join(checkpointsDir, doomedPrefix+name)
	if err := r.RemoveAll(doomed); err != nil {
		return err
	}
	if err := r.Rename(path.Join(checkpointsDir, name), doomed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := r.RemoveAll(doomed); err != nil {
		return err
	}
	return r.RemoveAll(path.Join(checkpointsDir, stagePrefix+name))
}

// list returns the paths of the whole files of a run, in order.
func (s *shelf) list(directory string) ([]string, error) {
	r, err := s.root(directory, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var all []string
	err = fs.WalkDir(r.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.Type().IsRegular() && checkPath(p) == nil:
			if len(all) >= maxFilesPerJob {
				return fs.SkipAll
			}
			all = append(all, p)
		}
		return nil
	})
	return all, err
}

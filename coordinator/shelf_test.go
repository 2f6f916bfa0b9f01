package coordinator

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func sumOf(content string) string {
	h := sha256.Sum256([]byte(content))
	return hex.EncodeToString(h[:])
}

func markOf(path, content string) mark {
	return mark{Path: path, Size: int64(len(content)), SHA256: sumOf(content)}
}

func lay(t *testing.T, s *shelf, path, content string) error {
	t.Helper()
	a, err := s.arrive("run", markOf(path, content), 0)
	if err != nil {
		return err
	}
	if err := a.write([]byte(content)); err != nil {
		a.drop()
		return err
	}
	return a.commit()
}

func contentOf(t *testing.T, s *shelf, path string) string {
	t.Helper()
	f, _, err := s.open("run", path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// everything lists what lies in a directory, hidden or not.
func everything(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, p[len(dir)+1:])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAFileAppearsWhole(t *testing.T) {
	s := newShelf(t.TempDir())
	m := markOf("metrics.jsonl", "hello, world")
	a, err := s.arrive("run", m, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.arrive("run", m, 0); !errors.Is(err, errBusy) {
		t.Errorf("a second arrival: %v, want errBusy", err)
	}
	a.keep()
	if got, have := s.partial("run", m.Path); got != m || have != 5 {
		t.Errorf("partial is %v with %d bytes, want %v with 5", got, have, m)
	}
	if _, _, err := s.open("run", m.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file opens: %v", err)
	}
	if _, err := s.arrive("run", markOf(m.Path, "hello, there"), 5); !errors.Is(err, errOffset) {
		t.Errorf("another content goes on where this one stopped: %v", err)
	}
	a, err = s.arrive("run", m, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.write([]byte(", world")); err != nil {
		t.Fatal(err)
	}
	if err := a.write([]byte("!")); !errors.Is(err, errOffset) {
		t.Errorf("one byte too many: %v", err)
	}
	if err := a.commit(); err != nil {
		t.Fatal(err)
	}
	if got := contentOf(t, s, m.Path); got != "hello, world" {
		t.Errorf("got %q", got)
	}
	if got := everything(t, s.dir); !slices.Equal(got, []string{"run/metrics.jsonl"}) {
		t.Errorf("%q lie there", got)
	}
}

func TestAWrongSumLeavesNothing(t *testing.T) {
	s := newShelf(t.TempDir())
	m := markOf("a", "right")
	a, err := s.arrive("run", m, 0)
	if err != nil {
		t.Fatal(err)
	}
	a.write([]byte("wrong"))
	if err := a.commit(); !errors.Is(err, errSum) {
		t.Fatalf("got %v, want errSum", err)
	}
	if got := everything(t, s.dir); len(got) > 0 {
		t.Errorf("%q are left", got)
	}
}

func TestADiskThatFailsLeavesNothing(t *testing.T) {
	s := newShelf(t.TempDir())
	s.sync = func(*os.File) error { return syscall.ENOSPC }
	os.Mkdir(filepath.Join(s.dir, "run"), 0o755)
	if err := lay(t, s, "a", "b"); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v, want ENOSPC", err)
	}
	if got := everything(t, s.dir); len(got) > 0 {
		t.Errorf("%q are left", got)
	}
	s.sync = (*os.File).Sync
	if err := lay(t, s, "a", "b"); err != nil {
		t.Fatal(err)
	}
}

func TestACheckpointAppearsWithItsManifest(t *testing.T) {
	s := newShelf(t.TempDir())
	const dir = "checkpoints/update-00000100/"
	if err := lay(t, s, dir+"model.safetensors", "weights"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "run", dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a checkpoint is there: %v", err)
	}
	if s.wholeCheckpoint("run", "update-00000100") {
		t.Error("half a checkpoint counts as whole")
	}
	if got := contentOf(t, s, dir+"model.safetensors"); got != "weights" {
		t.Errorf("other nodes would get %q", got)
	}
	if err := lay(t, s, dir+manifestName, "{}"); err != nil {
		t.Fatal(err)
	}
	if !s.wholeCheckpoint("run", "update-00000100") {
		t.Error("it is not whole")
	}
	if err := lay(t, s, dir+"model.safetensors", "other weights"); !errors.Is(err, errTaken) {
		t.Errorf("a whole checkpoint is replaced: %v", err)
	}
	want := []string{dir + manifestName, dir + "model.safetensors"}
	if got, err := s.list("run"); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if err := s.removeCheckpoint("run", "update-00000100"); err != nil {
		t.Fatal(err)
	}
	if got := everything(t, s.dir); len(got) > 0 {
		t.Errorf("%q are left", got)
	}
}

func TestPathsStayInside(t *testing.T) {
	outside := t.TempDir()
	s := newShelf(filepath.Join(outside, "runs"))
	os.MkdirAll(filepath.Join(s.dir, "run"), 0o755)
	os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644)
	os.Symlink(outside, filepath.Join(s.dir, "run", "link"))
	os.Symlink(outside, filepath.Join(s.dir, "linked"))
	for _, p := range []string{"", "/", "/etc/passwd", "../secret", "a/../../secret", ".", "..", "a//b", "a/.b", ".arriving/x", "a\\b", "a\x00b", "a\nb", "a/b/c/d/e/f/g", "\xff"} {
		if _, err := s.arrive("run", mark{Path: p, Size: 1}, 0); !errors.Is(err, errBadName) {
			t.Errorf("arrive %q: %v, want errBadName", p, err)
		}
		if _, _, err := s.open("run", p); !errors.Is(err, errBadName) {
			t.Errorf("open %q: %v, want errBadName", p, err)
		}
	}
	if _, _, err := s.open("run", "link/secret"); err == nil {
		t.Error("a link leads out")
	}
	if err := lay(t, s, "link/new", "x"); err == nil {
		t.Error("a link leads out when writing")
	}
	if _, _, err := s.open("linked", "secret"); err == nil {
		t.Error("a linked run leads out")
	}
	for _, d := range []string{"", ".", "..", "a/b", ".x"} {
		if _, err := s.arrive(d, markOf("a", "b"), 0); !errors.Is(err, errBadName) {
			t.Errorf("directory %q: %v, want errBadName", d, err)
		}
	}
	if _, err := os.Stat(filepath.Join(outside, "new")); err == nil {
		t.Error("something was written outside")
	}
}

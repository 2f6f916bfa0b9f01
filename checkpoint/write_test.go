package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func mustWrite(t *testing.T, dir, name string, s *State) string {
	t.Helper()
	path, err := Write(dir, name, s)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// names lists a folder.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func TestWriteReadRoundTrip(t *testing.T) {
	run := t.TempDir()
	dir := filepath.Join(run, "checkpoints")
	want := sample(7)
	path := mustWrite(t, dir, "epoch-0003", want)
	if err := SetLatest(dir, "epoch-0003"); err != nil {
		t.Fatal(err)
	}
	if err := SetBest(dir, "epoch-0003"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); got != "best epoch-0003 latest" {
		t.Errorf("the folder holds %q", got)
	}
	for _, p := range []string{path, run, dir, filepath.Join(dir, "latest"), filepath.Join(dir, "best"),
		filepath.Join(path, "model.safetensors"), filepath.Join(path, "manifest.json")} {
		got := mustRead(t, p)
		compareTensors(t, got.Model, want.Model)
		compareTensors(t, got.Optimizer, want.Optimizer)
		if got.Meta.Source != "mp" {
			t.Errorf("%s: got source %q, want mp", p, got.Meta.Source)
		}
		got.Meta.Source = ""
		// The specification is the same JSON, not the same spaces.
		if g, w := metaText(t, got.Meta), metaText(t, want.Meta); g != w {
			t.Errorf("%s: got meta %s, want %s", p, g, w)
		}
	}
	if d := Digest(mustRead(t, run).Model); d != Digest(want.Model) || d == Digest(sample(8).Model) {
		t.Errorf("digest %s does not follow the weights", d)
	}
}

// The same state gives the same bytes of weights, and a name that is taken is not touched.
func TestWriteKeepsTakenNames(t *testing.T) {
	dir := t.TempDir()
	first := mustWrite(t, dir, "a", sample(1))
	second := mustWrite(t, dir, "a", sample(2))
	third := mustWrite(t, dir, "a", sample(1))
	if got := names(t, dir); got != "a a-2 a-3" || second != filepath.Join(dir, "a-2") {
		t.Errorf("got %q, the second at %s", got, second)
	}
	a, err1 := os.ReadFile(filepath.Join(first, modelName))
	b, err2 := os.ReadFile(filepath.Join(third, modelName))
	if err1 != nil || err2 != nil || string(a) != string(b) {
		t.Errorf("two writings of one state differ (%v, %v)", err1, err2)
	}
	for _, bad := range []string{"", ".", "..", ".hidden", "a/b", "latest", "best", "a\nb"} {
		if path, err := Write(dir, bad, sample(1)); err == nil {
			t.Errorf("name %q: got %s, want an error", bad, path)
		}
	}
}

// fullDisk fails every file from byte limit on, counted over all files.
type fullDisk struct {
	limit int
	sync  error
}

type limitedFile struct {
	*os.File
	disk *fullDisk
}

func (f limitedFile) Write(p []byte) (int, error) {
	if len(p) > f.disk.limit {
		n, _ := f.File.Write(p[:f.disk.limit])
		f.disk.limit = 0
		return n, syscall.ENOSPC
	}
	f.disk.limit -= len(p)
	return f.File.Write(p)
}

func (f limitedFile) Sync() error {
	if f.disk.sync != nil {
		return f.disk.sync
	}
	return f.File.Sync()
}

func (d *fullDisk) create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	return limitedFile{f, d}, err
}

// Wherever the disk gets full, nothing new is there, the old checkpoint is, and the error is not the file's.
func TestWriteOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	mustWrite(t, dir, "old", sample(1))
	if err := SetLatest(dir, "old"); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, ErrFormat) {
			t.Errorf("%s: got %v, want an error that is not ErrFormat", what, err)
		}
		if got := names(t, dir); got != "latest old" {
			t.Errorf("%s: the folder holds %q, want the old checkpoint alone", what, got)
		}
		if got, err := Read(dir); err != nil {
			t.Errorf("%s: %v", what, err)
		} else {
			compareTensors(t, got.Model, sample(1).Model)
		}
	}
	full := 0
	for limit := 0; ; limit += 50 {
		disk := &fullDisk{limit: limit}
		path, err := writeWith(disk.create, dir, "new", sample(2))
		if err == nil {
			os.RemoveAll(path)
			break
		}
		full++
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), filepath.Join(dir, "new")) {
			t.Fatalf("limit %d: got %v, want ENOSPC naming the checkpoint", limit, err)
		}
		check(fmt.Sprint("limit ", limit), err)
	}
	if full < 20 {
		t.Errorf("the disk got full only %d times", full)
	}
	disk := &fullDisk{limit: 1 << 20, sync: syscall.EIO}
	_, err := writeWith(disk.create, dir, "new", sample(2))
	check("sync", err)
	check("pointer", setPointer(disk.create, dir, latestName, "new"))
	device := func(path string) (file, error) { return os.OpenFile("/dev/full", os.O_WRONLY, 0) }
	if exists("/dev/full") {
		_, err = writeWith(device, dir, "new", sample(2))
		check("/dev/full", err)
	}
	check("export", replaceFile((&fullDisk{limit: 10}).create, filepath.Join(dir, "out.pth"), func(w io.Writer) error { return encodeTorch(w, sample(1)) }))
}

// A damaged checkpoint is one error naming the file and the newest whole one; Latest falls back to that.
func TestBrokenLatest(t *testing.T) {
	breakages := map[string]func(path string) error{
		"cut": func(p string) error { return os.Truncate(filepath.Join(p, modelName), 100) },
		"grown": func(p string) error {
			f, err := os.OpenFile(filepath.Join(p, optimizerName), os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				f.Write([]byte("x"))
				err = f.Close()
			}
			return err
		},
		"flipped weight":   func(p string) error { return flip(filepath.Join(p, modelName), -3) },
		"flipped header":   func(p string) error { return flip(filepath.Join(p, modelName), 20) },
		"flipped manifest": func(p string) error { return edit(filepath.Join(p, manifestName), `"epoch": 3`, `"epoch": 4`) },
		"newer manifest":   func(p string) error { return edit(filepath.Join(p, manifestName), `"version": 1`, `"version": 2`) },
		"cut manifest":     func(p string) error { return os.Truncate(filepath.Join(p, manifestName), 50) },
		"no manifest":      func(p string) error { return os.Remove(filepath.Join(p, manifestName)) },
		"no model":         func(p string) error { return os.Remove(filepath.Join(p, modelName)) },
		"no optimizer":     func(p string) error { return os.Remove(filepath.Join(p, optimizerName)) },
		"gone":             os.RemoveAll,
	}
	for what, damage := range breakages {
		t.Run(what, func(t *testing.T) {
			run := t.TempDir()
			dir := filepath.Join(run, checkpointsName)
			mustWrite(t, dir, "z-oldest", sample(1))
			good := mustWrite(t, dir, "b", sample(2))
			bad := mustWrite(t, dir, "c", sample(3))
			if err := errors.Join(SetLatest(dir, "c"), SetBest(dir, "b"), damage(bad)); err != nil {
				t.Fatal(err)
			}
			_, err := Read(run)
			if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), good+": use that one") {
				t.Errorf("Read: got %v, want ErrFormat naming %s and offering %s", err, bad, good)
			}
			path, broken, err := Latest(run)
			if err != nil || path != good || len(broken) == 0 {
				t.Errorf("Latest: got %s, %v, %v, want %s and why", path, broken, err, good)
			}
			path, broken, err = Best(run)
			if err != nil || path != good || len(broken) != 0 {
				t.Errorf("Best: got %s, %v, %v, want %s", path, broken, err, good)
			}
		})
	}
}

// flip changes a bit of the byte at a position, from the end when negative.
func flip(path string, at int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[(at+len(b))%len(b)] ^= 4
	return os.WriteFile(path, b, 0o644)
}

func edit(path, old, new string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(b), old) {
		return fmt.Errorf("%s lacks %q", path, old)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(b), old, new, 1)), 0o644)
}

func TestNothingToResume(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, ErrFormat) {
		t.Errorf("empty folder: got %v, want ErrFormat", err)
	}
	if path, _, err := Latest(dir); !errors.Is(err, ErrFormat) {
		t.Errorf("empty folder: got %s, %v, want ErrFormat", path, err)
	}
	if path, _, err := Latest(filepath.Join(dir, "absent")); !errors.Is(err, ErrFormat) {
		t.Errorf("absent folder: got %s, %v, want ErrFormat", path, err)
	}
	if err := os.WriteFile(filepath.Join(dir, latestName), []byte("../../etc\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); !errors.Is(err, ErrFormat) {
		t.Errorf("a pointer out of the folder: got %v, want ErrFormat", err)
	}
}

// The newest stay by the order of writing, whatever steps they are of; latest and best always stay; remains go.
func TestPrune(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"e", "d", "c", "b", "a"} {
		mustWrite(t, dir, name, sample(1))
	}
	if err := errors.Join(SetBest(dir, "e"), SetLatest(dir, "d"),
		os.MkdirAll(filepath.Join(dir, temporaryPrefix+"1", "x"), 0o755), os.MkdirAll(filepath.Join(dir, doomedPrefix+"q"), 0o755)); err != nil {
		t.Fatal(err)
	}
	removed, err := Prune(dir, 2)
	if err != nil || len(removed) != 1 || removed[0] != filepath.Join(dir, "c") {
		t.Errorf("got %v, %v, want c removed", removed, err)
	}
	if got := names(t, dir); got != "a b best d e latest" {
		t.Errorf("the folder holds %q", got)
	}
	if path := mustWrite(t, dir, "c", sample(4)); path != filepath.Join(dir, "c") {
		t.Errorf("the next is written to %s", path)
	}
	if removed, err = Prune(dir, 1); err != nil || len(removed) != 2 || names(t, dir) != "best c d e latest" {
		t.Errorf("got %v, %v, left %s, want a and b removed", removed, err, names(t, dir))
	}
}

// A run also writes checkpoints of weights alone for `best`: they are not what it can resume from.
func TestWeightsAloneAreNotResumed(t *testing.T) {
	dir := t.TempDir()
	alone := &State{Model: sample(1).Model}
	first := mustWrite(t, dir, "update-1", sample(1))
	mustWrite(t, dir, "best-1", alone)
	second := mustWrite(t, dir, "update-2", sample(2))
	best := mustWrite(t, dir, "best-2", alone)
	if err := errors.Join(SetLatest(dir, "update-2"), SetBest(dir, "best-2")); err != nil {
		t.Fatal(err)
	}
	if removed, err := Prune(dir, 2); err != nil || names(t, dir) != "best best-2 latest update-1 update-2" {
		t.Errorf("got %v, %v, want best-1 removed", removed, err)
	}
	if err := os.Remove(filepath.Join(second, modelName)); err != nil {
		t.Fatal(err)
	}
	if path, _, err := Latest(dir); err != nil || path != first {
		t.Errorf("Latest: got %s, %v, want %s, which has the optimizer", path, err, first)
	}
	if err := os.RemoveAll(first); err != nil {
		t.Fatal(err)
	}
	if path, _, err := Latest(dir); err != nil || path != best {
		t.Errorf("Latest: got %s, %v, want %s, the only whole one", path, err, best)
	}
}

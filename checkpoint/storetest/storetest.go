// Package storetest is the suite that every checkpoint.Store passes, and what Copies promise on each.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"mp/checkpoint"
)

// Run tests the stores that open makes: each call an empty one.
func Run(t *testing.T, open func(testing.TB) checkpoint.Store) {
	t.Run("what is put can be got", func(t *testing.T) { putAndGet(t, open(t)) })
	t.Run("keys are listed below a folder", func(t *testing.T) { lists(t, open(t)) })
	t.Run("an object is replaced in one step", func(t *testing.T) { replaces(t, open(t)) })
	t.Run("what breaks off leaves what was there", func(t *testing.T) { breaksOff(t, open(t)) })
	t.Run("copies follow a run", func(t *testing.T) { follow(t, open(t)) })
	t.Run("the last good copy is restored", func(t *testing.T) { restore(t, open(t)) })
	t.Run("half a copy is none", func(t *testing.T) { half(t, open(t)) })
}

func put(t *testing.T, s checkpoint.Store, key string, content []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, bytes.NewReader(content), int64(len(content))); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(t *testing.T, s checkpoint.Store, key string) []byte {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return content
}

func absent(t *testing.T, s checkpoint.Store, key string) {
	t.Helper()
	if r, err := s.Get(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			r.Close()
		}
		t.Errorf("get %s: got %v, want fs.ErrNotExist", key, err)
	}
}

func list(t *testing.T, s checkpoint.Store, dir string) string {
	t.Helper()
	keys, err := s.List(t.Context(), dir)
	if err != nil {
		t.Fatalf("list %s: %v", dir, err)
	}
	return strings.Join(keys, " ")
}

// pattern is n bytes of which no two parts are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + i>>16*29)
	}
	return b
}

func putAndGet(t *testing.T, s checkpoint.Store) {
	absent(t, s, "run/a")
	if err := s.Remove(t.Context(), "run/a"); err != nil {
		t.Errorf("remove what is not there: %v", err)
	}
	if err := s.Sweep(t.Context(), "run"); err != nil {
		t.Errorf("sweep where nothing is: %v", err)
	}
	for _, size := range []int{1, 1000, 11<<20 + 1} { // the last in three parts of 5 MiB
		want := pattern(size)
		put(t, s, "run/a", want)
		if got := get(t, s, "run/a"); !bytes.Equal(got, want) {
			t.Errorf("of %d bytes got %d others", size, len(got))
		}
	}
	if err := s.Sweep(t.Context(), "run"); err != nil {
		t.Error(err)
	}
	if got := list(t, s, "run"); got != "run/a" {
		t.Errorf("a sweep left %q", got)
	}
	if err := s.Remove(t.Context(), "run/a"); err != nil {
		t.Error(err)
	}
	absent(t, s, "run/a")
}

func lists(t *testing.T, s checkpoint.Store) {
	if got := list(t, s, "run"); got != "" {
		t.Errorf("an empty store lists %q", got)
	}
	for _, key := range []string{"run/b", "run/a/x", "run/a/y", "runner/x", "run/a-b"} {
		put(t, s, key, []byte("x"))
	}
	if got, want := list(t, s, "run"), "run/a-b run/a/x run/a/y run/b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := list(t, s, "run/a"), "run/a/x run/a/y"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// replaces reads while others write: what is read is one of the two, whole.
func replaces(t *testing.T, s checkpoint.Store) {
	const size = 100_000
	put(t, s, "run/a", bytes.Repeat([]byte{0}, size))
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range 20 {
			if err := s.Put(t.Context(), "run/a", bytes.NewReader(bytes.Repeat([]byte{byte(i)}, size)), size); err != nil {
				t.Error(err)
			}
		}
	})
	for range 50 {
		got := get(t, s, "run/a")
		if len(got) != size || bytes.Count(got, got[:1]) != size {
			t.Fatalf("read %d bytes of two versions", len(got))
		}
	}
}

// half a reader fails in the middle.
type broken struct{ left io.Reader }

var errBroken = errors.New("broken on purpose")

func (b broken) Read(p []byte) (int, error) {
	n, err := b.left.Read(p)
	if err == io.EOF {
		err = errBroken
	}
	return n, err
}

func breaksOff(t *testing.T, s checkpoint.Store) {
	put(t, s, "run/a", []byte("before"))
	for _, size := range []int{1000, 11 << 20} {
		if err := s.Put(t.Context(), "run/a", broken{bytes.NewReader(pattern(size * 3 / 4))}, int64(size)); err == nil {
			t.Errorf("a reader that fails within %d bytes: got no error", size)
		}
		if err := s.Put(t.Context(), "run/new", broken{bytes.NewReader(pattern(size * 3 / 4))}, int64(size)); err == nil {
			t.Errorf("a reader that fails within %d bytes: got no error", size)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ended, "run/a", bytes.NewReader(pattern(1000)), 1000); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its context: got %v", err)
	}
	if got := get(t, s, "run/a"); string(got) != "before" {
		t.Errorf("got %d other bytes", len(got))
	}
	absent(t, s, "run/new")
	if got := list(t, s, "run"); got != "run/a" {
		t.Errorf("the store lists %q", got)
	}
}

// run is a run's directory in which checkpoints are written.
type run struct {
	t   *testing.T
	dir string
}

func newRun(t *testing.T) run {
	r := run{t, filepath.Join(t.TempDir(), "20260102-first")}
	if err := errors.Join(os.Mkdir(r.dir, 0o755), os.WriteFile(filepath.Join(r.dir, "job.yaml"), []byte("model: simplenet\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	return r
}

func state(step int, optimizer bool) *checkpoint.State {
	s := &checkpoint.State{Model: []checkpoint.Tensor{checkpoint.FromFloat32s("w", []int64{2}, []float32{float32(step), 1})}, Meta: checkpoint.Meta{Arch: "simplenet", Step: step}}
	if optimizer {
		s.Optimizer = []checkpoint.Tensor{checkpoint.FromFloat32s("momentum.w", []int64{2}, []float32{float32(step), 2})}
	}
	return s
}

// save writes the checkpoint after a number of updates, as a run does that keeps two.
func (r run) save(step int, best bool) {
	r.t.Helper()
	dir, name, point := filepath.Join(r.dir, "checkpoints"), fmt.Sprintf("update-%d", step), checkpoint.SetLatest
	if best {
		name, point = fmt.Sprintf("best-%d", step), checkpoint.SetBest
	}
	_, err := checkpoint.Write(dir, name, state(step, !best))
	if err == nil {
		err = point(dir, name)
	}
	if err == nil {
		_, err = checkpoint.Prune(dir, 2)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r run) follow(c *checkpoint.Copies, want string) {
	r.t.Helper()
	copied, err := c.Follow(r.t.Context(), r.dir, 2)
	if got := strings.Join(copied, " "); err != nil || got != want {
		r.t.Errorf("copied %q, %v, want %q", got, err, want)
	}
}

// checkpoints lists what copies there are.
func checkpoints(t *testing.T, s checkpoint.Store) string {
	var names []string
	for key := range strings.FieldsSeq(list(t, s, "20260102-first/checkpoints")) {
		if name, file, _ := strings.Cut(strings.TrimPrefix(key, "20260102-first/checkpoints/"), "/"); file == "manifest.json" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func follow(t *testing.T, s checkpoint.Store) {
	c, r := checkpoint.NewCopies(s), newRun(t)
	r.follow(c, "") // nothing is there yet
	r.save(1, false)
	r.follow(c, "update-1")
	r.follow(c, "")
	if got := string(get(t, s, "20260102-first/checkpoints/latest")); got != "update-1\n" {
		t.Errorf("latest is %q", got)
	}
	r.save(2, true)
	r.save(2, false)
	r.follow(c, "best-2 update-2")
	r.save(3, false)
	r.save(4, false)
	r.follow(checkpoint.NewCopies(s), "update-4") // another process goes on
	if got, want := checkpoints(t, s), "best-2 update-2 update-4"; got != want {
		t.Errorf("copies are %q, want %q", got, want)
	}
	r.save(5, true)
	r.follow(checkpoint.NewCopies(s), "best-5")
	if got, want := checkpoints(t, s), "best-5 update-2 update-4"; got != want {
		t.Errorf("copies are %q, want %q", got, want)
	}
	// What is damaged here is not copied, and the pointer stays.
	r.save(6, false)
	if err := os.WriteFile(filepath.Join(r.dir, "checkpoints/update-6/model.safetensors"), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if copied, err := c.Follow(t.Context(), r.dir, 2); !errors.Is(err, checkpoint.ErrFormat) || len(copied) > 0 {
		t.Errorf("copied %q, %v, want ErrFormat", copied, err)
	}
	if got := string(get(t, s, "20260102-first/checkpoints/latest")); got != "update-4\n" {
		t.Errorf("latest is %q", got)
	}
}

func restored(t *testing.T, s checkpoint.Store, wantName string, wantBroken int, wantStep int) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "runs", "back")
	name, passed, err := checkpoint.NewCopies(s).Restore(t.Context(), "20260102-first", to)
	if err != nil || name != wantName || len(passed) != wantBroken {
		t.Errorf("restored %q, %d passed over (%v), %v, want %q, %d", name, len(passed), passed, err, wantName, wantBroken)
		return
	}
	got, err := checkpoint.Read(to)
	if err != nil {
		t.Error(err)
		return
	}
	if want := state(wantStep, true); checkpoint.Digest(append(got.Model, got.Optimizer...)) != checkpoint.Digest(append(want.Model, want.Optimizer...)) {
		t.Errorf("%s has other bits", name)
	}
	if text, err := os.ReadFile(filepath.Join(to, "job.yaml")); err != nil || string(text) != "model: simplenet\n" {
		t.Errorf("the job is %q, %v", text, err)
	}
	left, err := os.ReadDir(filepath.Dir(to))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the run lies %v, %v", left, err)
	}
}

func restore(t *testing.T, s checkpoint.Store) {
	c, r := checkpoint.NewCopies(s), newRun(t)
	if _, _, err := c.Restore(t.Context(), "20260102-first", filepath.Join(t.TempDir(), "none")); !errors.Is(err, checkpoint.ErrFormat) {
		t.Errorf("nothing to restore: got %v, want ErrFormat", err)
	}
	for step := 1; step <= 3; step++ {
		r.save(step, true)
		r.save(step, false)
		if _, err := c.Follow(t.Context(), r.dir, 3); err != nil {
			t.Fatal(err)
		}
	}
	restored(t, s, "update-3", 0, 3)
	if _, _, err := c.Restore(t.Context(), "20260102-first", r.dir); err == nil {
		t.Error("a run that is there was replaced")
	}
	const base = "20260102-first/checkpoints/"
	put(t, s, base+"update-3/optimizer.safetensors", append(get(t, s, base+"update-3/optimizer.safetensors"), 0)) // longer
	restored(t, s, "update-2", 1, 2)
	model := get(t, s, base+"update-2/model.safetensors")
	model[len(model)-1] ^= 1 // one bit
	put(t, s, base+"update-2/model.safetensors", model)
	restored(t, s, "update-1", 2, 1)
	put(t, s, base+"latest", []byte("../../../etc\n"))
	put(t, s, base+"best", []byte("best-9\n"))
	restored(t, s, "update-1", 2, 1)
	put(t, s, base+"update-1/manifest.json", []byte("{}"))
	if name, _, err := c.Restore(t.Context(), "20260102-first", filepath.Join(t.TempDir(), "weights")); err != nil || name != "best-3" {
		t.Errorf("restored %q, %v, want the best one, of which the weights are whole", name, err)
	}
}

// half: a writer that was killed leaves files without a manifest, and parts of a file.
func half(t *testing.T, s checkpoint.Store) {
	c, r := checkpoint.NewCopies(s), newRun(t)
	r.save(1, false)
	r.follow(c, "update-1")
	put(t, s, "20260102-first/checkpoints/update-2/model.safetensors", pattern(1000))
	restored(t, s, "update-1", 0, 1)
	r.save(2, false)
	r.follow(checkpoint.NewCopies(s), "update-2")
	restored(t, s, "update-2", 0, 2)
	put(t, s, "20260102-first/checkpoints/update-0/model.safetensors", pattern(1000))
	r.save(3, false)
	r.follow(c, "update-3")
	if got := list(t, s, "20260102-first/checkpoints/update-0"); got != "" {
		t.Errorf("%q is left of a killed writer", got)
	}
}

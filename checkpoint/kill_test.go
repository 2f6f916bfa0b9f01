package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeForEver is the process that TestKilledWriter kills: as a run does, it writes, points and prunes.
func writeForEver(dir string) error {
	for n := 1; ; n++ {
		path, err := Write(dir, fmt.Sprintf("step-%06d", n), sample(float32(n)))
		if err != nil {
			return err
		}
		if err := errors.Join(SetLatest(dir, filepath.Base(path)), SetBest(dir, filepath.Base(path))); err != nil {
			return err
		}
		if _, err := Prune(dir, 2); err != nil {
			return err
		}
	}
}

// A writer killed at any moment leaves a run that reads without a complaint, and nothing that stays for good.
func TestKilledWriter(t *testing.T) {
	const variable = "MP_TEST_WRITE_FOR_EVER"
	if dir := os.Getenv(variable); dir != "" {
		t.Fatal(writeForEver(dir))
	}
	run := t.TempDir()
	dir := filepath.Join(run, checkpointsName)
	rounds, interrupted := 12, 0
	for round := range rounds {
		c := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
		c.Env = append(os.Environ(), variable+"="+dir)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); !exists(filepath.Join(dir, latestName)) || !exists(filepath.Join(dir, bestName)); time.Sleep(time.Millisecond) {
			if time.Since(start) > 30*time.Second {
				t.Fatal("the writer wrote nothing in 30 s")
			}
		}
		time.Sleep(time.Duration(20+7*round) * time.Millisecond)
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.Wait()
		if strings.Contains(names(t, dir), temporaryPrefix) {
			interrupted++
		}
		if _, err := Read(run); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for what, choose := range map[string]func(string) (string, []error, error){"latest": Latest, "best": Best} {
			if path, broken, err := choose(run); err != nil || len(broken) > 0 {
				t.Fatalf("round %d: %s is %s, %v, %v, want a whole one", round, what, path, broken, err)
			}
		}
	}
	if _, err := Prune(dir, 1); err != nil {
		t.Fatal(err)
	}
	if left := names(t, dir); strings.Contains(left, temporaryPrefix) || strings.Contains(left, doomedPrefix) {
		t.Errorf("after pruning the folder holds %q", left)
	}
	t.Logf("%d of %d kills were in the middle of a write", interrupted, rounds)
}

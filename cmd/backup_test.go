package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mp/internal/testcluster"
	"mp/job"
	"mp/mppb"
)

// A cluster is backed up while a job runs, and its coordinator loses its disk: the job goes on from the backup with the same bits,
// from what a worker remembers or from the checkpoint in the backup.
func TestABackupBringsAJobBack(t *testing.T) {
	s := testcluster.Spec(t, job.ModelSimpleNet, 8)
	s.CheckpointEvery = 3
	alone := testcluster.New(t, testcluster.Config{})
	alone.Start("1")
	want := alone.Finish(alone.Submit(s))
	for _, survives := range []bool{false, true} {
		k := testcluster.New(t, testcluster.Config{})
		one := k.Start("1")
		id := k.Submit(s)
		k.Until(id, "a checkpoint", func(d *mppb.JobDetail) bool { return len(d.Checkpoints) > 0 && d.Job.Update >= 5 })
		dir := t.TempDir()
		file := filepath.Join(dir, "mp.backup")
		if code, stdout, stderr := callMain("coordinator", "backup", file, "--coordinator", k.Addresses(), "--data-dir", dir); code != exitDone || !strings.Contains(stdout, "secret is not in it") {
			t.Fatalf("backup: code %d, %q, %s", code, stdout, stderr)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("beside the backup lies %v, %v", left, err)
		}
		if !survives {
			one.Kill()
		}
		k.LoseCoordinator(0)

		restore := []string{"--data-dir", k.Folder(0), "--runs", filepath.Join(k.Folder(0), "runs")}
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		flipped := append([]byte(nil), whole...)
		flipped[len(flipped)/2] ^= 1
		for what, content := range map[string][]byte{"cut short": whole[:len(whole)*2/3], "damaged": flipped, "empty": nil, "no backup": []byte(strings.Repeat("x", 2000))} {
			bad := filepath.Join(t.TempDir(), "bad")
			if err := os.WriteFile(bad, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if code, _, stderr := callMain(append([]string{"coordinator", "restore", bad}, restore...)...); code != exitBadInput || !strings.Contains(stderr, "not a whole backup") {
				t.Errorf("%s: code %d, %s", what, code, stderr)
			}
			if exists(k.Folder(0)) {
				t.Errorf("%s: something was restored", what)
			}
		}
		if code, stdout, stderr := callMain(append([]string{"coordinator", "restore", file}, restore...)...); code != exitDone || !strings.Contains(stdout, "1 jobs go on") {
			t.Fatalf("restore: code %d, %q, %s", code, stdout, stderr)
		}
		if code, _, stderr := callMain(append([]string{"coordinator", "restore", file}, restore...)...); code != exitBadInput || !strings.Contains(stderr, "move it away") {
			t.Errorf("a second time: code %d, %s", code, stderr)
		}
		k.StartCoordinator(0)
		if !survives {
			k.Start("1")
		}
		testcluster.SameBits(t, "restored from a backup", k.Finish(id), want)
		if next := k.Submit(s); next != "job-1001" {
			t.Errorf("the next job is %s: it may be taken for one that was handed in after the backup", next)
		}
	}
}

func TestBackupAsksForTheSecret(t *testing.T) {
	code, _, stderr := callMain("coordinator", "backup", filepath.Join(t.TempDir(), "f"), "--with-secret", "--data-dir", t.TempDir(), "--wait", "1s")
	if code != exitBadInput || !strings.Contains(stderr, "no secret is known here") {
		t.Errorf("code %d, %s", code, stderr)
	}
}

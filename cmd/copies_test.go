package cmd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// A run that is stopped and whose disk is lost goes on from its copies, with the bits of one that was left alone; also where the
// newest copy is damaged.
func TestARunGoesOnFromItsCopies(t *testing.T) {
	args, _ := shortRun(t)
	args = append(args, "--workers", "1", "--epochs", "12")
	want := trainIn(t, args...)
	copies := filepath.Join(t.TempDir(), "copies")
	p, run := startTraining(t, append(args, "--checkpoints", copies)...)
	until(t, "there is a copy", func() bool { return exists(filepath.Join(copies, filepath.Base(run), "checkpoints/latest")) })
	p.signal(syscall.SIGTERM)
	<-p.done
	if p.code != exitDrained && p.code != exitDone { // it was faster
		t.Fatalf("training ended with %d:\n%s", p.code, strings.Join(lastLines(p.log, 20), "\n"))
	}
	latest, err := os.ReadFile(filepath.Join(run, "checkpoints/latest"))
	if err != nil {
		t.Fatal(err)
	}
	copied, err := os.ReadFile(filepath.Join(copies, filepath.Base(run), "checkpoints/latest"))
	if err != nil || string(copied) != string(latest) {
		t.Errorf("the newest copy is %q, %v, want %q, that with which the run ended", copied, err, latest)
	}
	if err := os.RemoveAll(run); err != nil {
		t.Fatal(err)
	}
	model := filepath.Join(copies, filepath.Base(run), "checkpoints", strings.TrimSpace(string(latest)), "model.safetensors")
	if err := os.WriteFile(model, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := callMain("checkpoint", "fetch", copies+"/"+filepath.Base(run), run, "--json")
	var got broughtBack
	if err := json.Unmarshal([]byte(stdout), &got); code != exitDone || err != nil || len(got.PassedOver) != 1 || !strings.Contains(stderr, "passed over") {
		t.Fatalf("fetch: code %d, %q, %s", code, stdout, stderr)
	}
	if again := trainIn(t, "train", "--resume", run, "--workers", "1", "--json"); again.SHA256 != want.SHA256 || again.OptimizerSHA256 != want.OptimizerSHA256 {
		t.Errorf("from the copies:\n got %+v\nwant %+v", again, want)
	}
	for _, c := range []struct{ want, where string }{
		{"want s3://BUCKET/PREFIX/RUN", "s3://bucket"}, {"want s3://BUCKET/PREFIX or a folder", "ftp://host/run"}, {"no copy is whole", copies + "/none"}, {"there already", copies + "/" + filepath.Base(run)},
	} {
		if code, _, stderr := callMain("checkpoint", "fetch", c.where, "--runs", filepath.Dir(run)); code != exitBadInput || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: code %d, %s", c.where, code, stderr)
		}
	}
}

// The same from a bucket of a server that S3_ENDPOINT names: see make s3-check.
func TestARunGoesOnFromABucket(t *testing.T) {
	endpoint := os.Getenv("S3_ENDPOINT")
	if endpoint == "" {
		t.Skip("S3_ENDPOINT names no server: see make s3-check")
	}
	const key, secret = "key", "very-secret"
	for name, value := range map[string]string{"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret} {
		t.Setenv(name, value)
	}
	scheme, host, _ := strings.Cut(endpoint, "://")
	client, err := minio.New(host, &minio.Options{Creds: credentials.NewStaticV4(key, secret, ""), Secure: scheme == "https"})
	if err != nil {
		t.Fatal(err)
	}
	bucket := fmt.Sprintf("mp-words-%d", os.Getpid())
	if err := client.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	args, _ := shortRun(t)
	args = append(args, "--workers", "1", "--epochs", "12")
	want := trainIn(t, args...)
	copies := "s3://" + bucket + "/some/where"
	p, run := startTraining(t, append(args, "--checkpoints", copies)...)
	pointer := "some/where/" + filepath.Base(run) + "/checkpoints/latest"
	until(t, "there is a copy", func() bool {
		_, err := client.StatObject(t.Context(), bucket, pointer, minio.StatObjectOptions{})
		return err == nil
	})
	p.signal(syscall.SIGTERM)
	<-p.done
	if p.code != exitDrained && p.code != exitDone { // it was faster
		t.Fatalf("training ended with %d:\n%s", p.code, strings.Join(lastLines(p.log, 20), "\n"))
	}
	if err := os.RemoveAll(run); err != nil {
		t.Fatal(err)
	}
	there := copies + "/" + filepath.Base(run)
	code, stdout, stderr := callMain("checkpoint", "fetch", there, filepath.Join(t.TempDir(), "fetched"), "--json")
	var got broughtBack
	if err := json.Unmarshal([]byte(stdout), &got); code != exitDone || err != nil || len(got.PassedOver) != 0 {
		t.Fatalf("fetch: code %d, %q, %s", code, stdout, stderr)
	}
	again := trainIn(t, "train", "--resume", there, "--runs", filepath.Dir(run), "--workers", "1", "--json")
	if again.SHA256 != want.SHA256 || again.OptimizerSHA256 != want.OptimizerSHA256 {
		t.Errorf("from the bucket:\n got %+v\nwant %+v", again, want)
	}
}

package s3

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"mp/checkpoint"
	"mp/checkpoint/storetest"
)

// The suite against a server that S3_ENDPOINT names, whose credentials are key and very-secret if it asks; and a writer that is
// killed in the middle of an upload. See make s3-check.
func TestServer(t *testing.T) {
	endpoint, bucket := os.Getenv("S3_ENDPOINT"), os.Getenv("S3_TEST_BUCKET")
	if endpoint == "" {
		t.Skip("S3_ENDPOINT names no server: see make s3-check")
	}
	if bucket != "" { // the writer that is killed
		big := bytes.Repeat([]byte("abcdefgh"), 25<<20)
		t.Fatal(open(t, Config{Endpoint: endpoint, Bucket: bucket}).Put(t.Context(), "run/big", bytes.NewReader(big), int64(len(big))))
	}
	n := 0
	empty := func(t testing.TB) *Store {
		n++
		s := open(t, Config{Endpoint: endpoint, Bucket: fmt.Sprintf("mp-%d-%d", os.Getpid(), n), Prefix: "some/where"})
		if err := s.client.MakeBucket(t.Context(), s.cfg.Bucket, minio.MakeBucketOptions{}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := empty(t)
	s.cfg.Prefix = ""
	unfinished := func() (n int) {
		for u := range s.client.Client.ListIncompleteUploads(t.Context(), s.cfg.Bucket, "run/", true) {
			if u.Err == nil {
				n++
			}
		}
		return n
	}
	writer := exec.Command(os.Args[0], "-test.run=^TestServer$")
	writer.Env = append(os.Environ(), "S3_TEST_BUCKET="+s.cfg.Bucket)
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); unfinished() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("the writer began no upload within a minute")
		}
	}
	writer.Process.Kill()
	writer.Wait()
	if keys, err := s.List(t.Context(), "run"); err != nil || len(keys) > 0 {
		t.Errorf("a killed writer left %s, %v", strings.Join(keys, " "), err)
	}
	if err := s.Sweep(t.Context(), "run"); err != nil || unfinished() > 0 {
		t.Errorf("a sweep left %d uploads, %v", unfinished(), err)
	}
	storetest.Run(t, func(t testing.TB) checkpoint.Store { return empty(t) })
}

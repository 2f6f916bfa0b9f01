package coordinator

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/mppb"
)

// upload brings content to whoever leads.
func (c *testCluster) upload(job, path, content string) error {
	c.t.Helper()
	f, err := os.Create(filepath.Join(c.t.TempDir(), "f"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		c.t.Fatal(err)
	}
	_, err = c.client().Upload(c.context(), &mppb.FileName{Job: job, Path: path}, f)
	return err
}

// checkpoint brings a whole checkpoint.
func (c *testCluster) checkpoint(job, name, pointer string, step int, weights string) error {
	for _, f := range [][2]string{
		{"checkpoints/" + name + "/model.safetensors", weights},
		{"checkpoints/" + name + "/manifest.json", fmt.Sprintf(`{"meta": {"step": %d}}`, step)},
		{"checkpoints/" + pointer, name + "\n"},
	} {
		if err := c.upload(job, f[0], f[1]); err != nil {
			return err
		}
	}
	return nil
}

// lies returns what a node has under a path of the run.
func (n *testNode) lies(path string) string {
	text, err := os.ReadFile(filepath.Join(n.cfg.RunsDir, "run", path))
	if err != nil {
		return ""
	}
	return string(text)
}

func TestFilesReachEveryNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	first := c.leader()
	job := c.submit(testSpec).Id
	big := strings.Repeat("0123456789abcdef", 200_000) // several parts
	if err := c.checkpoint(job, "update-00000100", "latest", 100, big); err != nil {
		t.Fatal(err)
	}
	copies := 0
	for _, n := range c.nodes {
		if n.lies("checkpoints/update-00000100/model.safetensors") == big {
			copies++
		}
	}
	if copies < 2 {
		t.Errorf("Upload returned with %d copies, want a majority", copies)
	}
	for _, n := range c.nodes {
		c.until(n.cfg.ID+" has the checkpoint", func() bool {
			return n.lies("checkpoints/latest") == "update-00000100\n" && n.lies("checkpoints/update-00000100/model.safetensors") == big
		})
	}
	if d := c.show(job); len(d.Checkpoints) != 1 || d.Checkpoints[0].Update != 100 || len(d.Checkpoints[0].Files) != 2 {
		t.Errorf("checkpoints are %v", d.Checkpoints)
	}
	// The same again is no work, also at another leader.
	c.end(first, ErrCrash)
	c.leader()
	if err := c.checkpoint(job, "update-00000100", "latest", 100, big); err != nil {
		t.Fatal(err)
	}
	// While a node is away, others write and forget; it catches up.
	for _, step := range []int{200, 300} {
		if err := c.checkpoint(job, fmt.Sprintf("update-%08d", step), "latest", step, big); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.checkpoint(job, "best-00000200", "best", 200, "best"); err != nil {
		t.Fatal(err)
	}
	c.start(first)
	for _, n := range c.nodes {
		c.until(n.cfg.ID+" has what is kept", func() bool {
			return n.lies("checkpoints/latest") == "update-00000300\n" && n.lies("checkpoints/best") == "best-00000200\n" &&
				n.lies("checkpoints/update-00000200/model.safetensors") == big && n.lies("checkpoints/best-00000200/model.safetensors") == "best" &&
				n.lies("checkpoints/update-00000100/model.safetensors") == ""
		})
	}
	// Any node gives them out.
	for _, n := range c.nodes {
		to := filepath.Join(t.TempDir(), "model")
		if _, err := c.clientAt(n.cfg.Listen).Download(c.context(), &mppb.FileName{Job: job, Path: "checkpoints/update-00000300/model.safetensors"}, to); err != nil {
			t.Errorf("from %s: %v", n.cfg.ID, err)
		} else if got, _ := os.ReadFile(to); string(got) != big {
			t.Errorf("%s sent %d bytes of %d", n.cfg.ID, len(got), len(big))
		}
	}
	// What lies in the run's directory when the job ends belongs to it, on every node.
	leader := c.leader()
	os.WriteFile(filepath.Join(leader.cfg.RunsDir, "run", "metrics.jsonl"), []byte("{}\n"), 0o644)
	if err := c.ask(func(ctx context.Context, cluster mppb.ClusterClient) error {
		_, err := cluster.Steer(ctx, &mppb.SteerRequest{Id: job, Verb: mppb.SteerRequest_CANCEL})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		c.until(n.cfg.ID+" has the metrics", func() bool { return n.lies("metrics.jsonl") == "{}\n" })
	}
	// A file that somebody removes comes back.
	for _, n := range c.nodes {
		if n != leader {
			os.Remove(filepath.Join(n.cfg.RunsDir, "run", "metrics.jsonl"))
			if _, err := c.clientAt(n.cfg.Listen).Download(c.context(), &mppb.FileName{Job: job, Path: "metrics.jsonl"}, filepath.Join(t.TempDir(), "m")); err != nil {
				t.Errorf("from %s: %v", n.cfg.ID, err)
			}
			break
		}
	}
}

// put sends parts as they are and returns the answer.
func (c *testCluster) put(parts ...*mppb.FilePart) (*mppb.FileState, error) {
	conn, err := mppb.Connect(mppb.ClientConfig{}, c.leader().cfg.Listen)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	stream, err := mppb.NewControlClient(conn).PutFile(c.context(), grpc.MaxCallSendMsgSize(64<<20))
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if p.Crc32C == 0 {
			p.Crc32C = mppb.Checksum(p.Data)
		}
		if stream.Send(p) != nil {
			break
		}
	}
	return stream.CloseAndRecv()
}

func TestFilesThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	n := c.leader()
	job := c.submit(testSpec).Id
	const content = "hello, world"
	file := func(change func(*mppb.FileState)) *mppb.FileState {
		f := &mppb.FileState{Job: job, Path: "a", Size: uint64(len(content)), Sha256: sumOf(content)}
		change(f)
		return f
	}
	same := func(*mppb.FileState) {}
	part := func(f *mppb.FileState, offset uint64, data string) *mppb.FilePart {
		return &mppb.FilePart{File: f, Offset: offset, Data: []byte(data)}
	}
	for _, k := range []struct {
		name  string
		parts []*mppb.FilePart
		code  codes.Code
	}{
		{"no file", []*mppb.FilePart{part(nil, 0, content)}, codes.InvalidArgument},
		{"unknown job", []*mppb.FilePart{part(file(func(f *mppb.FileState) { f.Job = "job-9" }), 0, content)}, codes.NotFound},
		{"outside", []*mppb.FilePart{part(file(func(f *mppb.FileState) { f.Path = "../a" }), 0, content)}, codes.InvalidArgument},
		{"hidden", []*mppb.FilePart{part(file(func(f *mppb.FileState) { f.Path = ".a" }), 0, content)}, codes.InvalidArgument},
		{"no sum", []*mppb.FilePart{part(file(func(f *mppb.FileState) { f.Sha256 = "" }), 0, content)}, codes.InvalidArgument},
		{"huge", []*mppb.FilePart{part(file(func(f *mppb.FileState) { f.Size = 1 << 60 }), 0, content)}, codes.InvalidArgument},
		{"wrong sum", []*mppb.FilePart{part(file(func(f *mppb.FileState) { f.Sha256 = sumOf("x") }), 0, content)}, codes.DataLoss},
		{"too long", []*mppb.FilePart{part(file(same), 0, content+"!")}, codes.OutOfRange},
		{"gap", []*mppb.FilePart{part(file(same), 0, "hello"), part(nil, 6, "world")}, codes.OutOfRange},
		{"from the middle", []*mppb.FilePart{part(file(func(f *mppb.FileState) { f.Path = "new" }), 5, ", world")}, codes.OutOfRange},
		{"short", []*mppb.FilePart{part(file(same), 0, "hello")}, codes.OutOfRange},
		{"damaged", []*mppb.FilePart{{File: file(same), Data: []byte(content), Crc32C: 1}}, codes.DataLoss},
		{"part too big", []*mppb.FilePart{part(file(func(f *mppb.FileState) { f.Size = 3 << 20 }), 0, strings.Repeat("x", mppb.PartBytes+1))}, codes.InvalidArgument},
		{"message too big", []*mppb.FilePart{part(file(func(f *mppb.FileState) { f.Size = 8 << 20 }), 0, strings.Repeat("x", 5<<20))}, codes.ResourceExhausted},
		{"pointer to nothing", []*mppb.FilePart{part(&mppb.FileState{Job: job, Path: latestPointer, Size: 5, Sha256: sumOf("none\n")}, 0, "none\n")}, codes.FailedPrecondition},
		{"pointer outside", []*mppb.FilePart{part(&mppb.FileState{Job: job, Path: latestPointer, Size: 5, Sha256: sumOf("../x\n")}, 0, "../x\n")}, codes.InvalidArgument},
	} {
		if _, err := c.put(k.parts...); status.Code(err) != k.code {
			t.Errorf("%s: got %v, want %s", k.name, err, k.code)
		}
		if got := n.lies("a"); got != "" {
			t.Errorf("%s: %q lies there", k.name, got)
		}
	}
	// After all that the file arrives; a broken one goes on where it was.
	if _, err := c.put(part(file(same), 0, "hello")); status.Code(err) != codes.OutOfRange {
		t.Fatal(err)
	}
	state, err := c.put(part(file(same), 5, ", world"))
	if err != nil || !state.Whole || n.lies("a") != content {
		t.Errorf("got %v, %v and %q", state, err, n.lies("a"))
	}
	if err := c.checkpoint(job, "update-00000001", "latest", 1, "one"); err != nil {
		t.Fatal(err)
	}
	err = c.upload(job, "checkpoints/update-00000001/model.safetensors", "other")
	if status.Code(err) != codes.AlreadyExists {
		t.Errorf("a whole checkpoint changed: %v", err)
	}
	if err := c.ask(func(ctx context.Context, cluster mppb.ClusterClient) error {
		stream, err := cluster.GetFile(ctx, &mppb.FileName{Job: job, Path: "nothing"})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}); status.Code(err) != codes.NotFound {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestAFullDiskUnderTheRuns(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	c := newCluster(t, 1, func(cfg *Config) {
		cfg.hooks.sync = func(f *os.File) error {
			if full.Load() {
				return fmt.Errorf("sync: %w", syscall.ENOSPC)
			}
			return f.Sync()
		}
	})
	n := c.leader()
	job := c.submit(testSpec).Id
	full.Store(true)
	err := c.upload(job, "a", "content")
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(err.Error(), "free space under") {
		t.Errorf("got %v", err)
	}
	if left := everything(t, n.cfg.RunsDir); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
	full.Store(false)
	if err := c.upload(job, "a", "content"); err != nil {
		t.Error(err)
	}
}

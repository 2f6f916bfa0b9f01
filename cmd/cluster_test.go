package cmd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"mp/job"
	"mp/mppb"
)

// fakeCluster is a coordinator that answers from what the test gives it.
type fakeCluster struct {
	mppb.UnimplementedClusterServer
	jobs   []*mppb.Job
	detail *mppb.JobDetail
	files  map[string][]byte // of job 1
	breaks atomic.Int32      // GetFile ends in the middle so often

	submitted *mppb.SubmitRequest
	keys      []string // of all requests
	dies      bool     // the leader does, when it has taken the next job in and before it answers
	steered   *mppb.SteerRequest

	mu     sync.Mutex
	told   []*mppb.Event // of Events; one a call, then the stream breaks, while breaks is above 0
	nats   string
	wanted []uint64 // From of every call of Events that follows
}

// Events tells what is told, and what comes to it.
func (c *fakeCluster) Events(r *mppb.EventsRequest, s grpc.ServerStreamingServer[mppb.Event]) error {
	if r.Follow {
		c.mu.Lock()
		c.wanted = append(c.wanted, r.From)
		c.mu.Unlock()
	}
	for next := int(max(r.From, 1)); ; {
		c.mu.Lock()
		told := c.told
		c.mu.Unlock()
		for ; next <= len(told); next++ {
			if err := s.Send(told[next-1]); err != nil {
				return err
			}
			if r.Follow && c.breaks.Add(-1) >= 0 {
				return status.Error(codes.Unavailable, "going away")
			}
		}
		if !r.Follow {
			return nil
		}
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// tell adds to the story and says how the job is from now on.
func (c *fakeCluster) tell(state mppb.Job_State, events ...*mppb.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range events {
		e.Sequence, e.Time = uint64(len(c.told)+1), time.Date(2026, 1, 2, 3, 4, len(c.told), 0, time.Local).UnixNano()
		c.told = append(c.told, e)
	}
	j := proto.CloneOf(c.detail.Job)
	j.State = state
	c.detail = &mppb.JobDetail{Job: j}
}

func (c *fakeCluster) Status(context.Context, *mppb.StatusRequest) (*mppb.ClusterStatus, error) {
	return &mppb.ClusterStatus{Leader: "a", NatsUrl: c.nats}, nil
}

func (c *fakeCluster) Submit(_ context.Context, r *mppb.SubmitRequest) (*mppb.Job, error) {
	c.submitted = r
	if c.keys = append(c.keys, r.Key); c.dies {
		c.dies = false
		return nil, mppb.NotLeader(&mppb.Leader{})
	}
	return &mppb.Job{Id: "job-7", State: mppb.Job_QUEUED, Spec: r.Spec, Directory: "20260102-030405-x"}, nil
}

func (c *fakeCluster) Jobs(context.Context, *mppb.JobsRequest) (*mppb.JobsReply, error) {
	return &mppb.JobsReply{Jobs: c.jobs}, nil
}

func (c *fakeCluster) Show(_ context.Context, n *mppb.JobName) (*mppb.JobDetail, error) {
	if n.Id != "job-1" {
		return nil, status.Errorf(codes.NotFound, "there is no job %q; `mp jobs` lists them", n.Id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.detail, nil
}

func (c *fakeCluster) Steer(_ context.Context, r *mppb.SteerRequest) (*mppb.Job, error) {
	c.steered = r
	return &mppb.Job{Id: r.Id, State: mppb.Job_PAUSED, Reason: "asked for"}, nil
}

func (c *fakeCluster) ListFiles(context.Context, *mppb.JobName) (*mppb.FileList, error) {
	l := &mppb.FileList{}
	for path := range c.files {
		l.Files = append(l.Files, c.state(path))
	}
	return l, nil
}

func (c *fakeCluster) state(path string) *mppb.FileState {
	sum := sha256.Sum256(c.files[path])
	return &mppb.FileState{Job: "job-1", Path: path, Size: uint64(len(c.files[path])), Sha256: hex.EncodeToString(sum[:]), Whole: true}
}

func (c *fakeCluster) GetFile(n *mppb.FileName, s grpc.ServerStreamingServer[mppb.FilePart]) error {
	content, first := c.files[n.Path], true
	for at := int(n.Offset); first || at < len(content); at += 1000 {
		part := content[at:min(at+1000, len(content))]
		out := &mppb.FilePart{Offset: uint64(at), Data: part, Crc32C: mppb.Checksum(part)}
		if first {
			out.File, first = c.state(n.Path), false
		}
		if err := s.Send(out); err != nil {
			return err
		}
		if at > 0 && c.breaks.Add(-1) >= 0 {
			return status.Error(codes.Unavailable, "going away")
		}
	}
	return nil
}

// serve starts the fake and returns its address.
func (c *fakeCluster) serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	mppb.RegisterClusterServer(s, c)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func someJob(t *testing.T) *mppb.Job {
	t.Helper()
	s, err := job.Default(job.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return &mppb.Job{Id: "job-1", State: mppb.Job_RUNNING, Spec: text, Directory: "20260102-030405-scenenet", Update: 1234, Updates: 5000, EpochsDone: 6, Workers: 3,
		ImagesPerSecond: 312.4, Submitted: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local).UnixNano(), Reason: "view 7"}
}

func TestJobsAsTableAndJSON(t *testing.T) {
	c := &fakeCluster{jobs: []*mppb.Job{someJob(t), {Id: "job-2", State: mppb.Job_QUEUED, Directory: "later"}}}
	at := c.serve(t)
	code, stdout, stderr := callMain("jobs", "--coordinator", at)
	want := `id     state    run                           updates        epochs  workers  images/s  best top-1  submitted            why
job-1  running  20260102-030405-scenenet  1,234/5,000  25 %    6/26        3       312              2026-01-02 03:04:05  view 7
job-2  queued   later                               0           0/0        0
`
	if code != 0 || stdout != want {
		t.Errorf("ended with %d, %q:\n%s\nwant\n%s", code, stderr, stdout, want)
	}
	code, stdout, _ = callMain("jobs", "--coordinator", at, "--json")
	var got struct{ Jobs []map[string]any }
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 || len(got.Jobs) != 2 || got.Jobs[0]["state"] != "running" || got.Jobs[0]["update"] != 1234.0 {
		t.Errorf("ended with %d, %s, %v", code, stdout, err)
	}
	if code, stdout, _ := callMain("jobs", "--coordinator", (&fakeCluster{}).serve(t)); code != 0 || !strings.HasPrefix(stdout, "no jobs") {
		t.Errorf("without jobs: %d, %q", code, stdout)
	}
}

func TestLedgerProvesOrNot(t *testing.T) {
	c := &fakeCluster{detail: &mppb.JobDetail{Job: someJob(t), Ledger: []*mppb.Ledger{
		{Epoch: 0, Images: 100, ExpectedImages: 100, Hash: 0xabc, ExpectedHash: 0xabc, Whole: true},
		{Epoch: 1, Images: 100, ExpectedImages: 100, Hash: 0xabd, ExpectedHash: 0xabc, Whole: true},
		{Epoch: 2, Images: 40, ExpectedImages: 40, Hash: 0x1, ExpectedHash: 0xabc},
	}}}
	at := c.serve(t)
	code, stdout, _ := callMain("jobs", "show", "1", "--ledger", "--coordinator", at)
	for _, want := range []string{"    1     100       100        0         0  0000000000000abc  0000000000000abc  every image once\n", "NOT PROVEN\n", "0000000000000001  -                 under way\n", "1 of 2 whole epochs proven\n"} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("ended with %d, no %q in\n%s", code, want, stdout)
		}
	}
	var d jobDetail
	if _, stdout, _ = callMain("jobs", "show", "1", "--json", "--coordinator", at); json.Unmarshal([]byte(stdout), &d) != nil || len(d.Ledger) != 3 || !d.Ledger[0].Proven || d.Ledger[1].Proven {
		t.Errorf("as JSON: %s", stdout)
	}
}

func TestLedgerTellsWhatIsHeldOut(t *testing.T) {
	s, err := job.Default(job.Spec{Adversarial: job.AdversarialPGD})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	j := someJob(t)
	j.Spec = text
	c := &fakeCluster{detail: &mppb.JobDetail{Job: j, Ledger: []*mppb.Ledger{{Images: 99_500, ExpectedImages: 99_500, Hash: 0xabc, ExpectedHash: 0xabc, Whole: true}}}}
	at := c.serve(t)
	code, stdout, _ := callMain("jobs", "show", "1", "--ledger", "--coordinator", at)
	for _, want := range []string{" 99,500    99,500 ", "every image once but those held out\n", "1 of 1 whole epoch proven; 500 images are held out of training for --adv-watch-images\n"} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("ended with %d, no %q in\n%s", code, want, stdout)
		}
	}
	var d jobDetail
	if _, stdout, _ = callMain("jobs", "show", "1", "--json", "--coordinator", at); json.Unmarshal([]byte(stdout), &d) != nil || len(d.Ledger) != 1 || d.Ledger[0].HeldOut != 500 {
		t.Errorf("as JSON: %s", stdout)
	}
}

func TestShowTellsWorkersCheckpointsAndStory(t *testing.T) {
	c := &fakeCluster{detail: &mppb.JobDetail{Job: someJob(t),
		Workers:     []*mppb.WorkerInfo{{Worker: 12, Name: "worker 1 (here, cpu:0)", State: "in view 7", Phase: mppb.Phase_REDUCING, Update: 1234, Shards: []uint32{0, 2}, ShardSeconds: 0.0253}},
		Checkpoints: []*mppb.Checkpoint{{Name: "update-00001000", Update: 1000, Files: []*mppb.FileState{{Size: 3 << 20, Whole: true}}}, {Name: "best-00001000", Update: 1000, Best: true, Files: []*mppb.FileState{{}}}},
		Events:      []*mppb.Event{{Sequence: 3, Topic: "view", Text: "worker 3 vanished", Advice: "see its log"}},
	}}
	code, stdout, _ := callMain("jobs", "show", "1", "--coordinator", c.serve(t))
	for _, want := range []string{"worker 1 (here, cpu:0)", "reducing", "0,2", "25.3 ms", "update-00001000   1,000  3.0 MiB", "best arriving", "view        worker 3 vanished\n                      see its log\n"} {
		if code != 0 || !strings.Contains(stdout, want) {
			t.Errorf("ended with %d, no %q in\n%s", code, want, stdout)
		}
	}
}

func TestSteeringAndRefusals(t *testing.T) {
	c := &fakeCluster{}
	at := c.serve(t)
	code, stdout, _ := callMain("jobs", "drain", "3", "--coordinator", at)
	if code != 0 || stdout != "job-3 is paused: asked for\n" || c.steered.GetVerb() != mppb.SteerRequest_DRAIN || c.steered.GetId() != "job-3" {
		t.Errorf("ended with %d, %q, asked for %v", code, stdout, c.steered)
	}
	code, _, stderr := callMain("jobs", "show", "9", "--coordinator", at)
	if code != exitBadInput || stderr != "mp jobs show: show job-9: refused by the cluster: there is no job \"job-9\"; `mp jobs` lists them\n" {
		t.Errorf("a job that is not there: ended with %d, %q", code, stderr)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	for _, args := range [][]string{{"jobs"}, {"jobs", "show", "1"}, {"jobs", "cancel", "1"}, {"jobs", "fetch", "1"}, {"submit"}} {
		code, _, stderr := callMain(append(args, "--coordinator", nobody, "--wait", "300ms")...)
		if code != exitFailed || !strings.Contains(stderr, "no coordinator answers at "+nobody) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v where nobody is: ended with %d, %q", args, code, stderr)
		}
	}
	if code, _, stderr := callMain("jobs", "--coordinator", "nowhere"); code != exitBadInput || !strings.Contains(stderr, "want HOST:PORT") {
		t.Errorf("an address that is none: ended with %d, %q", code, stderr)
	}
}

func TestSubmitCompletesTheJob(t *testing.T) {
	c := &fakeCluster{}
	at := c.serve(t)
	code, stdout, stderr := callMain("submit", "--coordinator", at, "--model", "simplenet", "--min-workers", "2", "--init", "w.pth", "--json")
	if code != 0 {
		t.Fatalf("ended with %d, %q", code, stderr)
	}
	var s job.Spec
	if err := json.Unmarshal(c.submitted.Spec, &s); err != nil || s.Model != "simplenet" || s.Shards != fewShards || s.Threads != 1 || !filepath.IsAbs(s.Init) {
		t.Errorf("submitted %s, %v", c.submitted.Spec, err)
	}
	if c.submitted.MinWorkers != 2 || c.submitted.Data != nil || !strings.Contains(stdout, `"id":"job-7","state":"queued"`) {
		t.Errorf("submitted %v, printed %s", c.submitted, stdout)
	}
	if code, _, stderr := callMain("submit", "--coordinator", at, "--batch-size", "10"); code != exitDone || strings.Contains(string(c.submitted.Spec), `"shards":4`) {
		t.Errorf("a batch that 4 do not divide: ended with %d, %q, %s", code, stderr, c.submitted.Spec)
	}
}

// A job that cannot be is refused here, in one line, and never asked for.
func TestSubmitRefusesWhatCannotBe(t *testing.T) {
	c := &fakeCluster{}
	at := c.serve(t)
	for _, wrong := range []struct{ flag, value, word string }{
		{"--epochs", "0", "epochs"}, {"--batch-size", "-1", "batch-size"}, {"--shards", "3", "shards"}, {"--model", "simplenett", "simplenet"}, {"--lr", "NaN", "lr"},
		{"--min-workers", "-1", "min-workers"}, {"--wait", "soon", "wait"},
	} {
		code, _, stderr := callMain("submit", "--coordinator", at, wrong.flag, wrong.value)
		if code != exitBadInput || !strings.Contains(stderr, wrong.word) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s %s: ended with %d, %q; want 64 and a line about %s", wrong.flag, wrong.value, code, stderr, wrong.word)
		}
	}
	if c.submitted != nil {
		t.Errorf("submitted %v", c.submitted)
	}
}

// What is asked for again because no answer came is the same request, and another one is not.
func TestAJobIsAskedForAgainUnderTheSameKey(t *testing.T) {
	c := &fakeCluster{dies: true}
	at := c.serve(t)
	for range 2 {
		if code, _, stderr := callMain("submit", "--coordinator", at); code != exitDone {
			t.Fatalf("ended with %d, %q", code, stderr)
		}
	}
	if len(c.keys) != 3 || c.keys[0] == "" || c.keys[1] != c.keys[0] || c.keys[2] == c.keys[0] {
		t.Errorf("asked with the keys %q, want one twice and then another", c.keys)
	}
	if code, _, stderr := callMain("submit", "--key", "mine", "--coordinator", at); code != exitDone || c.keys[3] != "mine" {
		t.Errorf("--key mine: ended with %d, %q, asked with %q", code, stderr, c.keys[3])
	}
}

func TestFetchGoesOnWhereItBroke(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	c := &fakeCluster{files: map[string][]byte{"checkpoints/update-1/model.safetensors": content, "job.yaml": []byte("epochs: 1\n"), "empty": nil}}
	c.breaks.Store(3)
	at, out := c.serve(t), filepath.Join(t.TempDir(), "run")
	if err := os.MkdirAll(out, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "job.yaml"+partSuffix), []byte("epo"), 0o644); err != nil { // of an earlier fetch
		t.Fatal(err)
	}
	for range 2 { // the second finds everything there
		code, stdout, stderr := callMain("jobs", "fetch", "1", "--out", out, "--coordinator", at, "--json")
		if code != 0 || !strings.Contains(stdout, `"files":3,"bytes":16010`) {
			t.Fatalf("ended with %d, %q, %q", code, stdout, stderr)
		}
	}
	for path, want := range c.files {
		if got, err := os.ReadFile(filepath.Join(out, path)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", path, len(got), err, len(want))
		}
	}
	if left, _ := filepath.Glob(filepath.Join(out, "*"+partSuffix)); len(left) > 0 {
		t.Errorf("left %q behind", left)
	}
	c.files = map[string][]byte{
		"told/b/metrics.jsonl": []byte("{\"time\":\"2026-01-02T03:04:06Z\"}\n"),
		"told/a/metrics.jsonl": []byte("{\"time\":\"2026-01-02T03:04:05Z\"}\n{\"time\":\"2026-01-02T03:04:07Z\"}\n"),
	}
	if code, _, stderr := callMain("jobs", "fetch", "1", "--out", out, "--coordinator", at); code != 0 {
		t.Errorf("records of two coordinators: ended with %d, %q", code, stderr)
	}
	got, err := os.ReadFile(filepath.Join(out, "metrics.jsonl"))
	if want := "{\"time\":\"2026-01-02T03:04:05Z\"}\n{\"time\":\"2026-01-02T03:04:06Z\"}\n{\"time\":\"2026-01-02T03:04:07Z\"}\n"; string(got) != want || exists(filepath.Join(out, toldFolder)) {
		t.Errorf("records of two coordinators put together are %q, %v; want %q", got, err, want)
	}
	c.files = map[string][]byte{"../outside": []byte("x")}
	if code, _, stderr := callMain("jobs", "fetch", "1", "--out", out, "--coordinator", at); code == 0 || !strings.Contains(stderr, "outside") {
		t.Errorf("a path outside: ended with %d, %q", code, stderr)
	}
}

func TestLogLines(t *testing.T) {
	var out bytes.Buffer
	e := newEnv(io.Discard, &out, os.LookupEnv)
	l := e.logger(slog.LevelInfo).With("node", "a").WithGroup("raft")
	l.Info("leads", "term", 3, "why", "an election", slog.Group("peer", "id", "b"))
	l.Debug("hidden")
	l.Warn("slow disk")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || lines[0][8:] != `  leads node=a raft.term=3 raft.why="an election" raft.peer.id=b` || lines[1][8:] != "  warn: slow disk node=a" {
		t.Errorf("got %q", lines)
	}
}

func TestPeersAndWorkersWords(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"coordinator --peers a", "want ID=HOST:PORT"},
		{"coordinator --peers a=1.2.3.4:1,b=1.2.3.4:2,c=1.2.3.4:3", "give --id"},
		{"coordinator --peers a=1.2.3.4:1,b=1.2.3.4:2 --id a --nats none", "even number"},
		{"coordinator --fail-after 1ms --nats none", "fail-after"},
		{"coordinator --nats somewhere", "choose embedded, none, or a URL"},
		{"coordinator --nats none --nats-listen :4222", "is for the embedded NATS server"},
		{"coordinator --nats nats://a:4222 --nats-listen :4222", "is for the embedded NATS server"},
		{"coordinator --monitor 7090 --nats none", "want HOST:PORT"},
		{"worker --cpu --gpu 0 --data x", "contradict each other"},
		{"worker --cpu", "give --data"},
		{"worker --cpu --data x --coordinator y", "want HOST:PORT"},
		{"worker --cpu --data /nowhere --coordinator 127.0.0.1:1", "no folder"},
	} {
		t.Chdir(t.TempDir())
		code, _, stderr := callMain(strings.Fields(c.args)...)
		if code != exitBadInput || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: ended with %d, %q; want %d and %q", c.args, code, stderr, exitBadInput, c.want)
		}
	}
}

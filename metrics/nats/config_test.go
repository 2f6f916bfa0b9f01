package nats

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"mp/metrics"
)

func writeFile(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBadConfiguration(t *testing.T) {
	sink := func(change func(*SinkConfig)) func() error {
		return func() error {
			c := DefaultSinkConfig("nats://h:1", "j", "w")
			change(&c)
			_, err := NewSink(c)
			return err
		}
	}
	recorder := func(change func(*RecorderConfig)) func() error {
		return func() error {
			c := DefaultRecorderConfig("nats://h:1", "d")
			change(&c)
			_, err := NewRecorder(c)
			return err
		}
	}
	server := func(change func(*ServerConfig)) func() error {
		return func() error {
			c := DefaultServerConfig("/nowhere")
			change(&c)
			_, err := NewServer(c)
			return err
		}
	}
	for want, try := range map[string]func() error{
		"no URL is given":                    sink(func(c *SinkConfig) { c.URL = " " }),
		`"nats://h:x" is no URL`:             sink(func(c *SinkConfig) { c.URL = "nats://ann:s3cret@h:x" }),
		`"http://h:1" begins with none of`:   sink(func(c *SinkConfig) { c.URL = "nats://h:1,http://ann:s3cret@h:1" }),
		"metrics of no job":                  sink(func(c *SinkConfig) { c.Job = "" }),
		"metrics of no worker":               sink(func(c *SinkConfig) { c.Worker = "" }),
		"room for 0 events":                  sink(func(c *SinkConfig) { c.MaxEvents = 0 }),
		"flush within -1s":                   sink(func(c *SinkConfig) { c.FlushWithin = -time.Second }),
		"more than one of user, token":       sink(func(c *SinkConfig) { c.Credentials = Credentials{User: "a", Password: "s3cret", Token: "s3cret"} }),
		"a password without a user":          sink(func(c *SinkConfig) { c.Credentials.Password = "s3cret" }),
		"open /nowhere.creds: no such file":  sink(func(c *SinkConfig) { c.Credentials.File = "/nowhere.creds" }),
		"a recorder without a name":          recorder(func(c *RecorderConfig) { c.Durable = "" }),
		`name "a.b"`:                         recorder(func(c *RecorderConfig) { c.Durable = "a.b" }),
		"sinks are closed after 0s":          recorder(func(c *RecorderConfig) { c.IdleAfter = 0 }),
		`"h" is no URL`:                      recorder(func(c *RecorderConfig) { c.URL = "h" }),
		"no directory to keep metrics in":    server(func(c *ServerConfig) { c.StoreDir = "" }),
		`listen on "h", which`:               server(func(c *ServerConfig) { c.Listen = "h" }),
		`listen on "h:99999", which`:         server(func(c *ServerConfig) { c.Listen = "h:99999" }),
		"say by which name clients reach it": server(func(c *ServerConfig) { c.Listen = ":0" }),
		"at least 1 MiB and a minute":        server(func(c *ServerConfig) { c.MaxAge = time.Second }),
		"no credentials files":               server(func(c *ServerConfig) { c.Credentials.File = "f" }),
		"user ann without a password":        server(func(c *ServerConfig) { c.Credentials.User = "ann" }),
	} {
		err := try()
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an ErrConfig with %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("a secret is in %q", err)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"nats://h:1": "nats://h:1", "tls://u:p@h:1": "tls://h:1", "u:p@h": "nats://h", "nats://u:p@x@h:1, nats://t@i:2": "nats://h:1,nats://i:2",
		"u:p://x@h": "nats://h",
	} {
		if got := redact(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestSubjects(t *testing.T) {
	if got, want := subjectOf("20260102-150405-scenenet", "3", metrics.KindStep), "mp.20260102-150405-scenenet.3.step"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := subjectOf("a", "b", metrics.KindProgress), "mp.a.b.progress.live"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, name := range []string{"a", "a.b", "*", ">", "héllo %41", " ", "\t\n", "%", "."} {
		subject := subjectOf(name, name+"x", metrics.KindStory)
		if strings.Count(subject, ".") != 3 || strings.ContainsAny(subject, " *>\t\n") {
			t.Errorf("%q: %q is no subject of four parts", name, subject)
		}
		job, worker, err := parseSubject(subject)
		if err != nil || job != name || worker != name+"x" {
			t.Errorf("%q: got %q, %q, %v", name, job, worker, err)
		}
	}
	for _, bad := range []string{"", "mp.a.b", "xx.a.b.c", "mp.%4.b.c", "mp.a.%zz.c"} {
		if _, _, err := parseSubject(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// The queue beside one that is obviously right.
func TestQueueAgainstAPlainList(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	kinds := []metrics.Kind{metrics.KindStep, metrics.KindWorker, metrics.KindStory, metrics.KindView}
	for range 50 {
		q := queue{maxEvents: 1 + random.IntN(20), maxBytes: 200 + random.IntN(4000)}
		var plain []entry
		dropped := 0
		for sequence := uint64(1); sequence < 300; sequence++ {
			if random.IntN(3) == 0 {
				got, ok := q.pop()
				if ok != (len(plain) > 0) {
					t.Fatalf("pop: got %v with %d waiting", ok, len(plain))
				}
				if ok {
					if !reflect.DeepEqual(got, plain[0]) {
						t.Fatalf("pop: got event %d, want %d", got.sequence, plain[0].sequence)
					}
					plain = plain[1:]
				}
				continue
			}
			e := entry{sequence: sequence, kind: kinds[random.IntN(len(kinds))], data: make([]byte, random.IntN(300))}
			q.push(e)
			plain = append(plain, e)
			for {
				bytes := 0
				for _, e := range plain {
					bytes += e.size()
				}
				if len(plain) <= q.maxEvents && bytes <= q.maxBytes {
					break
				}
				victim := 0
				for i, e := range plain {
					if lossy(e.kind) {
						victim = i
						break
					}
				}
				plain = append(plain[:victim:victim], plain[victim+1:]...)
				dropped++
			}
			if q.len() != len(plain) {
				t.Fatalf("after %d: got %d waiting, want %d", sequence, q.len(), len(plain))
			}
		}
		if got := q.takeDropped(); got != dropped || q.takeDropped() != 0 {
			t.Fatalf("dropped: got %d, want %d, once", got, dropped)
		}
	}
}

// A queue of blocks beside one of a single block, and what an empty one holds.
func TestQueueOfManyBlocks(t *testing.T) {
	const n = 10 * blockSize
	q := queue{maxEvents: n / 2, maxBytes: 1 << 30}
	for i := range uint64(n) {
		q.push(entry{sequence: i, kind: metrics.KindStep})
	}
	for want := uint64(n / 2); q.len() > 0; want++ {
		if e, ok := q.pop(); !ok || e.sequence != want {
			t.Fatalf("got event %d, want %d", e.sequence, want)
		}
	}
	if len(q.lossy.blocks) != 0 || q.bytes != 0 || q.dropped != n/2 {
		t.Errorf("an empty queue has %d blocks and counts %d bytes and %d dropped, want 0, 0 and %d", len(q.lossy.blocks), q.bytes, q.dropped, n/2)
	}
}

package membership

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// chooser makes commands up: some make sense, most nearly do.
type chooser struct {
	*rand.Rand
	s *State
}

func (r chooser) word() string {
	return []string{"", "a", "b", "cuda:0", "x/y", "../z", "job-1", "job-2", "\xff\xfe", strings.Repeat("q", 400), "update-00000001", "ckpt/a", "ckpt/b"}[r.IntN(13)]
}

func (r chooser) number() uint64 {
	return []uint64{0, 1, 2, 3, 5, 9, 10, 1000, math.MaxUint32, math.MaxUint64}[r.IntN(10)]
}

func (r chooser) worker() uint64 {
	if len(r.s.Workers) > 0 && r.IntN(5) > 0 {
		return r.s.Workers[r.IntN(len(r.s.Workers))].ID
	}
	return r.number()
}

func (r chooser) job() string {
	if len(r.s.Jobs) > 0 && r.IntN(5) > 0 {
		return r.s.Jobs[r.IntN(len(r.s.Jobs))].ID
	}
	return r.word()
}

func (r chooser) float() float64 {
	return []float64{0, 1, -1, 0.5, 1e300, math.Inf(1), math.NaN()}[r.IntN(7)]
}

func (r chooser) data() Dataset {
	if r.IntN(3) == 0 {
		return Dataset{}
	}
	return Dataset{TrainSHA256: "t", ValSHA256: "v", TrainImages: []uint32{25, 25, 25, 26, 0}[r.IntN(5)], ValImages: 5, Classes: 10}
}

func (r chooser) view() uint64 {
	if r.IntN(5) > 0 {
		return r.s.View.Number
	}
	return r.number()
}

func (r chooser) command() Command {
	c := Command{Time: int64(r.Uint64())}
	for {
		switch r.IntN(16) {
		case 0:
			c.Join = &Join{Hello{Protocol: 1, Version: []string{"1", "1", "2"}[r.IntN(3)], Host: r.word(), Machine: r.word(), Device: fmt.Sprint(r.IntN(9)), Address: r.word(), Data: r.data(), Name: r.word()}}
		case 1:
			c.Leave = &Leave{Worker: r.worker(), Cause: []Cause{Vanished, Silent, Drained, Finished, "", "x"}[r.IntN(6)], Text: r.word(), DetectSeconds: r.float()}
		case 2, 3:
			c.SetView = r.setView()
		case 4, 5:
			j := r.job()
			c.Progress = &Progress{Job: j, View: r.view(), Update: r.number(), Validated: uint32(r.number()), RecoverSeconds: r.float(), ImagesPerSecond: r.float()}
			if j := r.s.Running(); j != nil && r.IntN(2) == 0 {
				c.Progress.Job, c.Progress.View, c.Progress.Update, c.Progress.Validated = j.ID, r.s.View.Number, j.Update+uint64(r.IntN(2)), 0
				c.Progress.Ledger = []LedgerEntry{{To: c.Progress.Update + 1, Images: uint64(r.IntN(30))}}
				break
			}
			for range r.IntN(3) {
				c.Progress.Ledger = append(c.Progress.Ledger, LedgerEntry{Epoch: uint32(r.IntN(3)), From: r.number(), To: r.number(), Images: r.number(), Hash: r.number()})
			}
		case 6:
			c.Submit = &Submit{Spec: json.RawMessage([]string{`{"shards":2,"batch-size":10,"epochs":2,"keep-checkpoints":1}`, `{"shards":2,"batch-size":10,"epochs":2,"adv-watch-images":4}`, `{"shards":0}`, `{`, ``, `[1]`, `null`,
				`{"shards":70000,"batch-size":1,"epochs":1}`, `{"shards":3,"batch-size":7,"epochs":3,"name":"../x"}`}[r.IntN(9)]), Directory: r.word(), Data: r.data(), MinWorkers: uint32(r.number())}
		case 7:
			c.Steer = &Steer{Job: r.job(), Verb: []Verb{Pause, Resume, Drain, Cancel, "", "x"}[r.IntN(6)]}
		case 8:
			c.Start = &Start{Job: r.job(), Data: r.data(), Version: "1"}
		case 9:
			c.End = &End{Job: r.job(), State: []JobState{JobDone, JobFailed, JobPaused, JobQueued, ""}[r.IntN(5)], Reason: r.word(), Outcome: &Outcome{BestTop1: r.float(), Checkpoint: r.word()}}
		case 10:
			c.RollBack = &RollBack{Job: r.job(), View: r.view(), Update: r.number(), Reason: r.word()}
		case 11:
			c.File = &File{Job: r.job(), Node: []string{"a", "b", ""}[r.IntN(3)], File: FileState{Path: r.word(), Size: r.number(), SHA256: r.word()}}
		case 12:
			c.Checkpoint = &Checkpoint{Job: r.job(), Name: r.word(), Update: r.number(), Best: r.IntN(3) == 0, Files: []string{"ckpt/a", r.word()}[:r.IntN(3)]}
		case 13:
			c.Quarantine = &Quarantine{Machine: r.word(), Device: r.word(), Seconds: r.float(), Reason: r.word()}
		case 14:
			c.Release = &Release{Machine: r.word(), Device: r.word(), Forget: r.IntN(2) == 0}
		case 15:
			c.Note = &Note{Topic: r.word(), Text: r.word(), Job: r.word(), Waits: r.IntN(2) == 0}
		}
		if r.IntN(50) > 0 {
			return c
		}
	}
}

func (r chooser) setView() *SetView {
	v := &SetView{Base: r.view(), Job: r.job(), Reason: r.word(), Save: r.IntN(5) == 0}
	if r.IntN(4) == 0 {
		return v
	}
	shards := uint32(2)
	if j := r.s.Running(); j != nil && r.IntN(5) > 0 {
		v.Job, shards = j.ID, j.Plan.Shards
	}
	for _, w := range r.s.Workers {
		if r.IntN(3) > 0 {
			v.Members = append(v.Members, Member{Worker: w.ID})
		}
	}
	for s := range shards {
		for range 1 + r.IntN(20)/19 {
			if n := len(v.Members); n > 0 && r.IntN(20) > 0 {
				m := &v.Members[r.IntN(n)]
				m.Shards, m.ValShards = append(m.Shards, s), append(m.ValShards, s)
			}
		}
	}
	return v
}

// Whatever is in the log, no command panics, one that is refused changes nothing, replicas agree byte for byte, also one that
// began from a snapshot, and what is kept has a bound.
func TestReplicasAgreeOnAnyLog(t *testing.T) {
	rounds, length := 40, 300
	if testing.Short() {
		rounds = 10
	}
	done := map[string]int{}
	for seed := range rounds {
		s, twin := New(), New()
		before := dump(t, s)
		r := chooser{rand.New(rand.NewPCG(uint64(seed), 7)), s}
		for i := range length {
			c := r.command()
			text, err := json.Marshal(c)
			if err != nil {
				continue // a number that JSON cannot say never reaches a log
			}
			var one, two Command
			if json.Unmarshal(text, &one) != nil || json.Unmarshal(text, &two) != nil {
				continue
			}
			index := s.Index + 1 + uint64(r.IntN(3))
			res, res2 := s.Apply(index, one), twin.Apply(index, two)
			if fmt.Sprint(res.Err) != fmt.Sprint(res2.Err) {
				t.Fatalf("seed %d, entry %d: %v and %v", seed, i, res.Err, res2.Err)
			}
			after := dump(t, s)
			if res.Err != nil {
				if !bytes.Equal(after[bytes.IndexByte(after, ','):], before[bytes.IndexByte(before, ','):]) { // all but the index
					t.Fatalf("seed %d, entry %d: %s is refused (%v) and changes the state", seed, i, text, res.Err)
				}
				for _, known := range []error{ErrCommand, ErrStale, ErrUnknown, ErrState, ErrJob, ErrRefused} {
					if errors.Is(res.Err, known) {
						done[known.Error()]++
					}
				}
			} else {
				done[string(bytes.SplitN(bytes.TrimPrefix(text[bytes.IndexByte(text, ',')+1:], []byte(`"`)), []byte(`"`), 2)[0])]++
			}
			if i%8 == 0 || i == length-1 {
				if other := dump(t, twin); !bytes.Equal(after, other) {
					t.Fatalf("seed %d, entry %d: replicas differ after %s:\n%s\n%s", seed, i, text, after, other)
				}
			}
			before = after
			if r.IntN(20) == 0 { // the twin starts again from a snapshot
				twin = New()
				if err := json.Unmarshal(after, twin); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, what := range []string{"join", "leave", "setView", "progress", "submit", "steer", "start", "end", "file", "checkpoint", "quarantine", "release", "note", "bad command", "made for another view", "not known", "not possible now", "bad job", "worker refused"} {
		if done[what] == 0 {
			t.Errorf("no %q happened in all rounds: %v", what, done)
		}
	}
}

func dump(t *testing.T, s *State) []byte {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatalf("encode state: %v", err)
	}
	return b
}

func TestOldEntriesAreIgnored(t *testing.T) {
	s := New()
	s.Apply(5, Command{Note: &Note{Topic: "x", Text: "y"}})
	if r := s.Apply(5, Command{Note: &Note{Topic: "x", Text: "y"}}); !errors.Is(r.Err, ErrStale) || len(s.Events) != 1 {
		t.Errorf("entry 5 came twice: got %v and %d events", r.Err, len(s.Events))
	}
}

func TestEventsHaveABound(t *testing.T) {
	s := New()
	for i := range uint64(25_000) {
		s.Apply(i+1, Command{Note: &Note{Topic: "x", Text: "y"}})
	}
	if len(s.Events) != maxEvents || s.Events[0].Sequence != 15_001 || s.Sequence != 25_000 || cap(s.Events) > 2*maxEvents {
		t.Errorf("got %d events from %d to %d in room for %d, want the newest %d", len(s.Events), s.Events[0].Sequence, s.Sequence, cap(s.Events), maxEvents)
	}
}

func TestJobsThatEndedHaveABound(t *testing.T) {
	s := New()
	index := uint64(0)
	apply := func(c Command) Result {
		index++
		return s.Apply(index, c)
	}
	for range 300 {
		r := apply(Command{Submit: &Submit{Spec: json.RawMessage(`{"shards":1,"batch-size":1,"epochs":1}`)}})
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		apply(Command{Steer: &Steer{Job: r.Job, Verb: Cancel}})
	}
	if len(s.Jobs) != maxEndedJobs || s.Jobs[len(s.Jobs)-1].ID != "job-300" {
		t.Errorf("got %d jobs, want the newest %d", len(s.Jobs), maxEndedJobs)
	}
}

func TestCheckpointsThatAreNotNeededAreDropped(t *testing.T) {
	s := New()
	index := uint64(0)
	apply := func(c Command) Result {
		t.Helper()
		index++
		r := s.Apply(index, c)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return r
	}
	apply(Command{Submit: &Submit{Spec: json.RawMessage(`{"shards":1,"batch-size":1,"epochs":1,"keep-checkpoints":2}`)}})
	var dropped []string
	save := func(name string, update uint64, best bool) {
		path := name + "/model.safetensors"
		apply(Command{File: &File{Job: "job-1", Node: "a", File: FileState{Path: path, Size: 1, SHA256: "x"}}})
		dropped = append(dropped, apply(Command{Checkpoint: &Checkpoint{Job: "job-1", Name: name, Update: update, Best: best, Files: []string{path}}}).Dropped...)
	}
	save("update-1", 1, false)
	save("best-1", 1, true)
	save("update-2", 2, false)
	save("update-3", 3, false)
	save("best-3", 3, true)
	j := s.Job("job-1")
	if got := fmt.Sprint(dropped); got != "[update-1/model.safetensors best-1/model.safetensors]" {
		t.Errorf("dropped %s", got)
	}
	if len(j.Checkpoints) != 3 || j.Newest().Name != "update-3" || len(j.Files) != 3 {
		t.Errorf("got %+v, newest %+v, %d files", j.Checkpoints, j.Newest(), len(j.Files))
	}
	// A file that is lost takes its checkpoint with it.
	apply(Command{File: &File{Job: "job-1", File: FileState{Path: "update-3/model.safetensors"}}})
	if j.Newest().Name != "update-2" {
		t.Errorf("newest is %q although its file is lost", j.Newest().Name)
	}
}

// running is a State with two workers (10 and 11) in view 1 of job-1, which has 2 shards, 25 images and batches of 10.
func running(t *testing.T) (s *State, apply func(Command) Result) {
	t.Helper()
	s = New()
	index := uint64(9)
	apply = func(c Command) Result {
		index++
		return s.Apply(index, c)
	}
	for _, c := range []Command{
		{Join: &Join{hello("a", "cpu:0")}},
		{Join: &Join{hello("a", "cpu:1")}},
		{Submit: &Submit{Spec: json.RawMessage(`{"shards":2,"batch-size":10,"epochs":2}`), Directory: "run"}},
		{Start: &Start{Job: "job-1", Data: hello("", "").Data, Version: "1"}},
		{SetView: &SetView{Job: "job-1", Members: []Member{{10, []uint32{0}, []uint32{0}}, {11, []uint32{1}, []uint32{1}}}}},
	} {
		if r := apply(c); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	return s, apply
}

func hello(machine, device string) Hello {
	return Hello{Protocol: 1, Version: "1", Host: machine, Machine: machine, Device: device, Address: "x:1", Data: Dataset{TrainSHA256: "t", ValSHA256: "v", TrainImages: 25, ValImages: 5, Classes: 10}}
}

func TestWhatApplyRefuses(t *testing.T) {
	with := func(change func(h *Hello)) Command {
		h := hello("b", "cpu:0")
		change(&h)
		return Command{Join: &Join{h}}
	}
	view := func(base uint64, members ...Member) Command {
		return Command{SetView: &SetView{Base: base, Job: "job-1", Members: members}}
	}
	one, two := []uint32{0}, []uint32{1}
	both := []uint32{0, 1}
	for _, c := range []struct {
		name    string
		command Command
		want    error
	}{
		{"a view made for an older one", view(0, Member{10, both, both}), ErrStale},
		{"a view made for one that is not there yet", view(2, Member{10, both, both}), ErrStale},
		{"a view of a job that does not run", Command{SetView: &SetView{Base: 1, Job: "job-2", Members: []Member{{10, both, both}}}}, ErrStale},
		{"a view of no job", Command{SetView: &SetView{Base: 1, Members: []Member{{10, both, both}}}}, ErrCommand},
		{"a view with a stranger", view(1, Member{10, one, one}, Member{99, two, two}), ErrStale},
		{"a view that has a worker twice", view(1, Member{10, one, one}, Member{10, two, two}), ErrCommand},
		{"a shard of two workers", view(1, Member{10, both, both}, Member{11, two, nil}), ErrCommand},
		{"a shard of nobody", view(1, Member{10, one, both}), ErrCommand},
		{"a part of validation of nobody", view(1, Member{10, both, one}), ErrCommand},
		{"a shard that is not there", view(1, Member{10, []uint32{0, 1, 2}, both}), ErrCommand},
		{"shards out of order", view(1, Member{10, []uint32{1, 0}, both}), ErrCommand},
		{"progress in an older view", Command{Progress: &Progress{Job: "job-1", View: 0, Update: 1}}, ErrStale},
		{"progress in a later view", Command{Progress: &Progress{Job: "job-1", View: 2, Update: 1}}, ErrStale},
		{"progress of another job", Command{Progress: &Progress{Job: "job-2", View: 1, Update: 1}}, ErrStale},
		{"progress beyond the end", Command{Progress: &Progress{Job: "job-1", View: 1, Update: 7}}, ErrCommand},
		{"a ledger of an epoch that is not there", Command{Progress: &Progress{Job: "job-1", View: 1, Update: 1, Ledger: []LedgerEntry{{Epoch: 2, From: 6, To: 7}}}}, ErrCommand},
		{"a ledger across epochs", Command{Progress: &Progress{Job: "job-1", View: 1, Update: 4, Ledger: []LedgerEntry{{Epoch: 0, From: 0, To: 4}}}}, ErrCommand},
		{"going back to where nobody was", Command{RollBack: &RollBack{Job: "job-1", View: 1, Update: 1}}, ErrCommand},
		{"going back in an older view", Command{RollBack: &RollBack{Job: "job-1", View: 0}}, ErrStale},
		{"a device that is taken", with(func(h *Hello) { h.Machine = "a" }), ErrRefused},
		{"another version", with(func(h *Hello) { h.Version = "2" }), ErrRefused},
		{"another protocol", with(func(h *Hello) { h.Protocol = 2 }), ErrRefused},
		{"other training images", with(func(h *Hello) { h.Data.TrainSHA256 = "u" }), ErrRefused},
		{"other validation images", with(func(h *Hello) { h.Data.ValSHA256 = "u" }), ErrRefused},
		{"fewer images", with(func(h *Hello) { h.Data.TrainImages = 24 }), ErrRefused},
		{"other classes", with(func(h *Hello) { h.Data.Classes = 11 }), ErrRefused},
		{"no address", with(func(h *Hello) { h.Address = "" }), ErrRefused},
		{"a worker who is not in", Command{Leave: &Leave{Worker: 99, Cause: Silent}}, ErrUnknown},
		{"a second job in the place", Command{Start: &Start{Job: "job-1", Data: hello("", "").Data}}, ErrState},
		{"a checkpoint without its files", Command{Checkpoint: &Checkpoint{Job: "job-1", Name: "update-1", Update: 1, Files: []string{"a"}}}, ErrUnknown},
		{"a file outside its run", Command{File: &File{Job: "job-1", Node: "a", File: FileState{Path: "../a", SHA256: "x"}}}, ErrCommand},
		{"a job in a run's directory", Command{Submit: &Submit{Spec: json.RawMessage(`{"shards":2,"batch-size":10,"epochs":2}`), Directory: "run"}}, ErrJob},
		{"a directory outside", Command{Submit: &Submit{Spec: json.RawMessage(`{"shards":2,"batch-size":10,"epochs":2}`), Directory: "../run"}}, ErrJob},
		{"two things at once", Command{Note: &Note{Topic: "x", Text: "y"}, Leave: &Leave{Worker: 10, Cause: Silent}}, ErrCommand},
		{"nothing", Command{}, ErrCommand},
	} {
		s, apply := running(t)
		before := dump(t, s)
		r := apply(c.command)
		if !errors.Is(r.Err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, r.Err, c.want)
		}
		if after := dump(t, s); !bytes.Equal(before[bytes.IndexByte(before, ','):], after[bytes.IndexByte(after, ','):]) {
			t.Errorf("%s changes the state:\n%s\n%s", c.name, before, after)
		}
	}
	_, apply := running(t)
	if r := apply(Command{Progress: &Progress{Job: "job-1", View: 1, Update: 6, Validated: 2}}); r.Err != nil {
		t.Errorf("progress to the end: %v", r.Err)
	}
	if r := apply(Command{Progress: &Progress{Job: "job-1", View: 1, Update: 5}}); !errors.Is(r.Err, ErrStale) {
		t.Errorf("progress that goes back: got %v", r.Err)
	}
}

func TestAJobAskedForTwiceIsOne(t *testing.T) {
	s := New()
	ask := func(key string) Result {
		return s.Apply(s.Index+1, Command{Submit: &Submit{Spec: json.RawMessage(`{"shards":1,"batch-size":1,"epochs":1}`), Key: key}})
	}
	first := ask("a")
	s.Apply(s.Index+1, Command{Steer: &Steer{Job: first.Job, Verb: Cancel}})
	events := len(s.Events)
	if again := ask("a"); again.Err != nil || again.Job != first.Job || len(s.Jobs) != 1 || len(s.Events) != events {
		t.Errorf("asked again: got %+v and %d jobs, want %s", again, len(s.Jobs), first.Job)
	}
	for i, key := range []string{"b", "", ""} {
		if r := ask(key); r.Err != nil || len(s.Jobs) != i+2 {
			t.Errorf("another key: got %+v and %d jobs", r, len(s.Jobs))
		}
	}
}

// Somebody resumes a run with other options: the job that had it ends, and another goes on in its directory.
func TestARunGoesOnAsAnotherJob(t *testing.T) {
	s, apply := running(t)
	dir := s.Job("job-1").Directory
	again := Command{Submit: &Submit{Spec: json.RawMessage(`{"shards":2,"batch-size":10,"epochs":3,"resume":"run"}`), Directory: dir}}
	if r := apply(again); !errors.Is(r.Err, ErrJob) {
		t.Fatalf("a second job in the directory of one that runs: got %v, want ErrJob", r.Err)
	}
	apply(Command{Steer: &Steer{Job: "job-1", Verb: Cancel}})
	r := apply(again)
	if r.Err != nil || r.Job == "job-1" || s.Job(r.Job).Directory != dir {
		t.Errorf("after the first has ended: got job %q, error %v, want another one in %q", r.Job, r.Err, dir)
	}
}

func TestManySpeakLessOften(t *testing.T) {
	times := Timeouts(900 * time.Millisecond)
	for workers, want := range map[int]time.Duration{0: 90, 1: 90, 300: 90, 600: 180, 1000: 300, 10_000: 300} {
		if got := times.Beat(workers); got != want*time.Millisecond {
			t.Errorf("%d workers: got %s, want %s", workers, got, want*time.Millisecond)
		}
	}
}

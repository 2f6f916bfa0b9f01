package membership

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite testdata/*.txt with what happens now")

// TestScripts plays stories: a script is commands, each with the transcript that is expected of it. See stage.do for the
// commands. `go test -update` rewrites the transcripts.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("%s differs; with -update it would be:\n%s", file, got)
			}
		})
	}
}

// play runs the commands of a script (lines that start with "> ") and returns it with what they print. Lines that start with
// "#" stay.
func play(t *testing.T, script string) string {
	s := newStage(t)
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "#") || line == "":
			out.WriteString(line + "\n")
		case strings.HasPrefix(line, "> "):
			out.WriteString(line + "\n")
			if err := s.do(strings.Fields(line[2:])); err != nil {
				s.print("error: %v", err)
			}
			out.WriteString(s.out.String())
			s.out.Reset()
		}
	}
	return out.String()
}

func (s *stage) print(format string, args ...any) {
	fmt.Fprintf(&s.out, format+"\n", args...)
}

// options reads key=value; bare words come back.
func options(args []string) (words []string, opts map[string]string) {
	opts = map[string]string{}
	for _, a := range args {
		if k, v, ok := strings.Cut(a, "="); ok {
			opts[k] = strings.ReplaceAll(v, "_", " ")
		} else {
			words = append(words, a)
		}
	}
	return words, opts
}

func atoi(s string, otherwise int) int {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return otherwise
}

func atof(s string) float64 {
	f, _ := strconv.ParseFloat(s, 64)
	return f
}

func (s *stage) do(args []string) error {
	words, o := options(args)
	verb, words := words[0], words[1:]
	if s.leader == nil && verb != "cluster" {
		s.lead("")
	}
	switch verb {
	case "cluster": // [min=N] [dismiss=yes] [version=V]
		s.c.MinWorkers, s.c.Dismiss, s.c.Version = atoi(o["min"], 1), o["dismiss"] != "", o["version"]
		s.lead("a")
		s.settle()
	case "leader": // NAME: another coordinator leads; every worker that lives comes back
		s.lead(words[0])
		for _, a := range s.actors {
			if a.alive && !a.stopped && a.id != 0 {
				s.arrive(a)
			}
		}
		s.settle()
	case "worker": // NAME... [host=] [device=] [images=] [classes=] [speed=seconds] ...: start, or start again
		for _, name := range words {
			s.start(name, o)
		}
		s.settle()
	case "kill": // NAME...
		for _, name := range words {
			a := s.actor(name)
			a.alive = false
			s.leader.Disconnected(s.now, a.id, a.session, "connection reset")
		}
		s.settle()
	case "fail": // NAME TEXT...: its step fails; it says why, and ends
		a := s.actor(words[0])
		st := a.st
		st.Fault = &Fault{View: st.View, Suspect: a.id, Kind: kindLocal, Text: strings.Join(words[1:], " ")}
		s.leader.Heard(s.now, a.id, st)
		a.alive = false
		s.leader.Disconnected(s.now, a.id, a.session, "connection reset")
		s.settle()
	case "stop": // NAME: it says nothing any more, and hears nothing
		s.actor(words[0]).stopped = true
	case "continue":
		s.actor(words[0]).stopped = false
	case "drain": // NAME...: the worker gets SIGTERM
		for _, name := range words {
			s.actor(name).st.Leaving = true
		}
	case "set": // NAME key=value: speed, skew, inbound, stuck, faulty, fail
		a := s.actor(words[0])
		a.shardSeconds, a.skew, a.inbound = max(atof(o["speed"]), usualShard), atof(o["skew"]), atof(o["inbound"])
		a.stuck, a.pretendsToBreak, a.st.Failure = o["stuck"] != "", o["faulty"], o["fail"]
	case "crowd": // SECONDS: one core too few
		s.crowd = atof(words[0])
		for _, a := range s.actors {
			a.skew = 0
		}
	case "submit": // [shards=] [batch=] [epochs=] [min=] [name=] [train=hash]
		spec := fmt.Sprintf(`{"shards":%d,"batch-size":%d,"epochs":%d,"name":%q,"keep-checkpoints":2}`, atoi(o["shards"], 4), atoi(o["batch"], 10), atoi(o["epochs"], 2), o["name"])
		s.apply(Command{Submit: &Submit{Spec: json.RawMessage(spec), MinWorkers: uint32(atoi(o["min"], 0)), Data: Dataset{TrainSHA256: o["train"]}}})
		s.settle()
	case "steer": // JOB VERB
		s.apply(Command{Steer: &Steer{Job: words[0], Verb: Verb(words[1])}})
		s.settle()
	case "checkpoint": // JOB: rank 0 saves
		s.save(s.state.Job(words[0]))
	case "run": // DURATION
		d, err := time.ParseDuration(words[0])
		if err != nil {
			return err
		}
		for end := s.now + d; s.now < end; {
			s.step()
		}
	case "view":
		s.view()
	case "jobs":
		for _, j := range s.state.Jobs {
			s.print("%s %s%s update %d of %d, %d epochs done: %s", j.ID, j.State, map[bool]string{true: " (parked)"}[j.Parked], j.Update, j.Updates(), j.EpochsDone, j.Reason)
		}
	case "ledger": // JOB
		for _, l := range s.state.Job(words[0]).Ledger() {
			s.print("epoch %d: %d of %d images, missing %d, repeated %d, %s", l.Epoch, l.Images, l.ExpectedImages, l.Missing, l.Repeated,
				map[bool]string{false: "not over", true: fmt.Sprintf("whole, hash agrees %v", l.Hash == l.ExpectedHash)}[l.Whole])
		}
	case "workers":
		for _, w := range s.state.Workers {
			s.print("%s: %s", w.name(), s.leader.Seen(s.state, w.ID).State)
		}
	default:
		return fmt.Errorf("no command %q", verb)
	}
	return nil
}

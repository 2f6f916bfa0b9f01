package cmd

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFateOfAChild(t *testing.T) {
	type end struct {
		code  int
		lived time.Duration
	}
	const short, steady = time.Second, steadyAfter
	for _, c := range []struct {
		name string
		ends []end
		want fate // of the last
	}{
		{"done", []end{{exitDone, short}}, fate{}},
		{"drained", []end{{exitDrained, short}}, fate{}},
		{"refused", []end{{exitBadInput, steady}}, fate{lost: true}},
		{"first crash", []end{{-1, short}}, fate{again: true, pause: firstPause}},
		{"third crash", []end{{-1, short}, {1, short}, {-1, short}}, fate{again: true, pause: 4 * firstPause}},
		{"crash after a steady life", []end{{-1, short}, {1, short}, {-1, steady}}, fate{again: true, pause: firstPause}},
		{"never lived", []end{{1, short}, {1, short}, {1, short}, {1, short}, {1, short}, {1, short}}, fate{lost: true}},
		{"once lived", []end{{1, steady}, {1, short}, {1, short}, {1, short}, {1, short}, {1, short}}, fate{again: true, pause: 32 * firstPause}},
	} {
		var count crashes
		var got fate
		for _, e := range c.ends {
			got = count.ended(e.code, e.lived)
		}
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
	count := crashes{lived: true, row: 1000}
	if got := count.ended(-1, short); got.pause != longPause {
		t.Errorf("after a thousand crashes: pause %v, want %v", got.pause, longPause)
	}
}

func TestSupervisorStartsAgainAndTellsLastWords(t *testing.T) {
	dir := t.TempDir()
	log, count := filepath.Join(dir, "1.log"), filepath.Join(dir, "count")
	script := `echo x >>` + count + `; if [ $(wc -l <` + count + `) -lt 3 ]; then echo "no luck" >&2; exit 1; fi; exit 0`
	var said []string
	s := supervisor{
		config: processConfig{name: "worker 1", program: "/bin/sh", args: []string{"-c", script}, log: log},
		say:    func(text string, lines []string) { said = append(said, text+": "+strings.Join(lines, "|")) },
	}
	last, lost, err := s.run(t.Context())
	if err != nil || lost || last.code != exitDone || s.starts() != 3 {
		t.Fatalf("ended with %+v, lost %v, %v after %d starts; want 0 after 3", last, lost, err, s.starts())
	}
	if len(said) != 2 || !strings.Contains(said[0], "worker 1 (pid ") || !strings.Contains(said[0], "exit status 1; starting it again in 200ms: no luck") {
		t.Errorf("said %q", said)
	}
	if got := lastLines(log, 9); len(got) != 0 {
		t.Errorf("the last life's words are %q, want none", got)
	}
}

func TestSupervisorStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := supervisor{config: processConfig{name: "w", program: "/bin/sh", args: []string{"-c", "trap 'exit 85' TERM; echo ready; while :; do sleep 0.01; done"}, log: filepath.Join(t.TempDir(), "log")}}
	ended := make(chan *process)
	go func() {
		last, _, err := s.run(ctx)
		if err != nil {
			t.Error(err)
		}
		ended <- last
	}()
	until(t, "the child is ready", func() bool { return len(lastLines(s.config.log, 1)) == 1 })
	cancel()
	if last := <-ended; last.code != exitDrained {
		t.Errorf("child ended with %d (%s), want %d", last.code, last.cause, exitDrained)
	}
	if s.current() != nil {
		t.Errorf("a child is left")
	}
}

func TestProgramThatIsNotThere(t *testing.T) {
	s := supervisor{config: processConfig{name: "w", program: "/nowhere/mp", log: filepath.Join(t.TempDir(), "log")}}
	if _, lost, err := s.run(t.Context()); err == nil || !lost || !strings.Contains(err.Error(), "start w") {
		t.Errorf("got lost %v, %v", lost, err)
	}
}

// A child must not outlive its parent, even one that is killed: this process starts a parent that starts a child.
func TestChildDiesWithItsParent(t *testing.T) {
	if log, ok := os.LookupEnv("CMD_TEST_PARENT"); ok {
		if _, err := startProcess(processConfig{name: "child", program: "/bin/sh", args: []string{"-c", "echo $$; sleep 60"}, log: log}); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "child.log")
	t.Setenv("CMD_TEST_PARENT", log)
	parent, err := startProcess(processConfig{name: "parent", program: os.Args[0], args: []string{"-test.run", "^TestChildDiesWithItsParent$"}, log: filepath.Join(dir, "parent.log")})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the child is there", func() bool { return len(lastLines(log, 1)) == 1 })
	pid, err := strconv.Atoi(lastLines(log, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	parent.signal(syscall.SIGKILL)
	<-parent.done
	until(t, "the child is gone", func() bool { return syscall.Kill(pid, 0) != nil || isZombie(pid) })
}

// isZombie says whether a process has ended and only its parent's wait is missing.
func isZombie(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(text), ") Z ")
}

// until waits for a condition that comes true within seconds, or minutes on a machine with much else to do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

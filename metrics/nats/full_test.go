package nats

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mp/metrics"
)

// A full disk closes the store; with room again everything that waited is stored, in order, and nothing of before is lost.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	if err := syscall.Mount("tmpfs", store, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("needs the right to mount a small disk: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(store, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	var log logText
	config := DefaultServerConfig(store)
	config.Logger = log.logger()
	server, stop := startServer(t, config, func(s *Server) { s.lookEvery = 50 * time.Millisecond })
	defer stop()
	m := &memory{}
	r, stopRecorder := startRecorder(t, DefaultRecorderConfig(server.URL(), "test"), func(string) (metrics.Sink, error) { return m, nil })
	defer stopRecorder()
	sink := newSink(t, patient(server.URL(), "j", "1"))
	sink.Emit(step(1))
	within(t, "the first event", func() bool { return m.len() == 1 })

	ballast := filepath.Join(store, "ballast")
	fill(t, ballast)
	for u := 2; u <= 500; u++ {
		sink.Emit(step(u))
	}
	within(t, "the server notices", func() bool { return strings.Contains(log.String(), "make room on its disk") })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	within(t, "everything is sent", func() bool { return sink.waiting() == 0 })
	sink.Close()
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRun(t, updates(m.all()), 1, 500)
}

// fill writes until there is no room.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<16); len(block) > 0; {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
}

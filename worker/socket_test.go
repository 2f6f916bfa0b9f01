package worker

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// What peers of one machine meet at is for this user alone, also in a folder that others may read.
func TestPeersOfAMachineAreThisUsers(t *testing.T) {
	made := filepath.Join(t.TempDir(), "new")
	old := t.TempDir()
	if err := os.Chmod(old, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{made, old} {
		d, err := listen(NodeConfig{Listen: "127.0.0.1:0", Scratch: dir, Machine: "m", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		about, err := os.Stat(d.socket)
		if err != nil || about.Mode().Perm() != 0o600 {
			t.Errorf("the socket in %s: %v, %v; want 0600", dir, about, err)
		}
		d.close()
	}
	if about, err := os.Stat(made); err != nil || about.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v; want 0700", about, err)
	}
}

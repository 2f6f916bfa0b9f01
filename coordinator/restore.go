package coordinator

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"

	"mp/coordinator/membership"
	"mp/mppb"
)

// RestoreConfig says where a backup goes. Every coordinator of the new cluster is given the same backup and list before any of
// them starts: they begin with the same state, or not as one cluster.
type RestoreConfig struct {
	DataDir string   // as Config's; it must be missing or empty
	RunsDir string   // as Config's; what is there stays, but for checkpoints of which the backup has others under the same names
	Nodes   []string // IDs of all coordinators of the cluster that begins; empty: those of the one that was backed up
}

// Restored is what a backup held.
type Restored struct {
	Secret string // the cluster's; empty: it was left out
	Jobs   int    // that go on
	Files  int
	Nodes  []string // who must begin
}

// nextLife sets a restored cluster's numbers apart from all that the one before may have given out since the backup: workers that
// survived it have these, and would take a new view for an old one.
const nextLife = 1_000_000_000

// Restore begins a cluster from a backup: the files of runs first and the raft log's directory last, so that there is none until
// all is whole. When it breaks off it can be done again.
func Restore(c RestoreConfig, from io.ReadSeeker) (Restored, error) {
	empty, err := absent(c.DataDir)
	if err != nil {
		return Restored{}, err
	}
	if !empty {
		return Restored{}, fmt.Errorf("%w: %s holds a coordinator's log: move it away, a restored cluster begins with a new one", ErrConfig, c.DataDir)
	}
	b, err := checkBackup(from)
	if err != nil {
		return Restored{}, err
	}
	if len(c.Nodes) == 0 {
		c.Nodes = b.about.Nodes
	}
	s := membership.New()
	if err := json.Unmarshal(b.state, s); err != nil {
		return Restored{}, noBackup("%s: %v", backupState, err)
	}
	s.BeginAgain(nextLife)
	out := Restored{Secret: b.secret, Nodes: c.Nodes}
	for _, j := range s.Jobs {
		if !j.State.Ended() {
			out.Jobs++
		}
	}
	if err := makeDir(c.RunsDir, "directory of runs"); err != nil {
		return Restored{}, err
	}
	if out.Files, err = b.placeFiles(newShelf(c.RunsDir), from); err != nil {
		return Restored{}, err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return Restored{}, err
	}
	return out, beginLog(c, text, s.Index, b.about.Term+1)
}

// backup is what is small of one, and the sums of all.
type backup struct {
	about  about
	state  []byte
	secret string
	sums   map[string]string
}

// Bounds of what is read into memory.
const (
	maxStateBytes = 1 << 30
	maxSmallBytes = 1 << 20
)

// checkBackup reads a backup from its beginning to its end and compares every checksum.
func checkBackup(from io.ReadSeeker) (*backup, error) {
	b := &backup{sums: map[string]string{}}
	last := ""
	var listed []byte
	err := eachEntry(from, func(name string, size int64, r io.Reader, sum hash.Hash) error {
		var into *[]byte
		var aboutText, secret []byte
		limit := int64(maxSmallBytes)
		switch name {
		case backupAbout:
			into = &aboutText
		case backupState:
			into, limit = &b.state, maxStateBytes
		case BackupSecret:
			into = &secret
		case BackupSums:
			into, limit = &listed, maxStateBytes
		}
		if into != nil {
			if size > limit {
				return noBackup("%s has %d bytes", name, size)
			}
			var err error
			if *into, err = io.ReadAll(r); err != nil {
				return noBackup("%s: %v", name, err)
			}
		} else if _, err := io.Copy(io.Discard, r); err != nil {
			return noBackup("%s: %v", name, err)
		}
		if name == backupAbout {
			if err := json.Unmarshal(aboutText, &b.about); err != nil {
				return noBackup("%s: %v", name, err)
			}
		}
		if name == BackupSecret {
			b.secret = string(secret)
		}
		if last = name; name != BackupSums {
			b.sums[name] = hex.EncodeToString(sum.Sum(nil))
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case last != BackupSums:
		return nil, noBackup("it ends before %s: it was cut short", BackupSums)
	case b.state == nil || b.about.Format == 0:
		return nil, noBackup("it holds no %s or no %s", backupState, backupAbout)
	case b.about.Format != backupFormat || b.about.Protocol != mppb.Protocol:
		return nil, fmt.Errorf("%w: the backup is of format %d and protocol %d, this mp reads %d and %d: restore with the mp that wrote it (%s)",
			ErrConfig, b.about.Format, b.about.Protocol, backupFormat, mppb.Protocol, b.about.Version)
	}
	lines := 0
	for line := range strings.Lines(string(listed)) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if b.sums[name] != sum {
			return nil, noBackup("%s has another SHA-256 than %s says: it is damaged", name, BackupSums)
		}
		lines++
	}
	if lines != len(b.sums) {
		return nil, noBackup("%s lists %d files, the archive has %d", BackupSums, lines, len(b.sums))
	}
	return b, nil
}

// eachEntry calls visit with every file of an archive, from its beginning; what visit reads goes into the sum.
func eachEntry(from io.ReadSeeker, visit func(name string, size int64, r io.Reader, sum hash.Hash) error) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for archive := tar.NewReader(from); ; {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return noBackup("%v", err)
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || h.Size > maxFileBytes {
			return noBackup("%q is nothing that a backup holds", h.Name)
		}
		sum := sha256.New()
		if err := visit(h.Name, h.Size, io.TeeReader(archive, sum), sum); err != nil {
			return err
		}
	}
}

// placeFiles puts the files of runs where they belong.
func (b *backup) placeFiles(s *shelf, from io.ReadSeeker) (n int, err error) {
	cleared := map[string]bool{} // directory/checkpoint
	err = eachEntry(from, func(name string, size int64, r io.Reader, _ hash.Hash) error {
		inside, ok := strings.CutPrefix(name, backupRuns+"/")
		if !ok {
			return nil
		}
		directory, p, _ := strings.Cut(inside, "/")
		if arrivalOrder(p) == 0 {
			return noBackup("%q is no file of a checkpoint", name)
		}
		if one := checkpointOf(p); one != "" && !cleared[directory+"/"+one] {
			if err := errors.Join(checkElement(directory), s.removeCheckpoint(directory, one)); err != nil {
				return fmt.Errorf("replace checkpoint %s of %s: %w", one, directory, err)
			}
			cleared[directory+"/"+one] = true
		}
		a, err := s.arrive(directory, mark{Path: p, Size: size, SHA256: b.sums[name]}, 0)
		if err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
		if _, err := io.Copy(writerFunc(a.write), r); err != nil {
			a.drop()
			return fmt.Errorf("restore %s: %w", name, err)
		}
		if err := a.commit(); err != nil {
			return fmt.Errorf("restore %s: %w", name, err)
		}
		n++
		return nil
	})
	return n, err
}

type writerFunc func([]byte) error

func (f writerFunc) Write(p []byte) (int, error) { return len(p), f(p) }

// beginLog makes the directory of a raft log that begins with a snapshot.
func beginLog(c RestoreConfig, state []byte, index, term uint64) (err error) {
	parent := filepath.Dir(c.DataDir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(parent, ".restoring-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
			err = fmt.Errorf("begin a raft log in %s: %w", c.DataDir, err)
		}
	}()
	var all raft.Configuration
	for _, id := range c.Nodes { // where they are, each is told when it starts
		all.Servers = append(all.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	snapshots, err := raft.NewFileSnapshotStore(dir, 1, io.Discard)
	if err != nil {
		return err
	}
	_, transport := raft.NewInmemTransport("")
	sink, err := snapshots.Create(raft.SnapshotVersionMax, index, term, all, index, transport)
	if err != nil {
		return err
	}
	if _, err := io.Copy(sink, bytes.NewReader(state)); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := sink.Close(); err != nil {
		return err
	}
	logs, err := openLogs(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(logs.SetUint64([]byte(currentTerm), term), logs.Close()); err != nil {
		return err
	}
	if err := os.Remove(c.DataDir); err != nil && !errors.Is(err, os.ErrNotExist) { // it is empty
		return err
	}
	if err := os.Rename(dir, c.DataDir); err != nil {
		return err
	}
	d, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

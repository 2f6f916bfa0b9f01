package coordinator

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/coordinator/membership"
	"mp/mppb"
)

// Names in a backup, which is a tar archive in this order. The files of runs lie as in --runs.
const (
	BackupSecret = "secret" // the cluster's, if it was asked for
	backupAbout  = "backup.json"
	backupState  = "state.json"
	backupRuns   = "runs"
	BackupSums   = "SHA256SUMS" // of all the others; it comes last and makes the backup whole
)

// backupFormat is the version of all that.
const backupFormat = 1

// about is what a backup says of itself.
type about struct {
	Format   int       `json:"format"`
	Protocol uint32    `json:"protocol"`
	Version  string    `json:"version"`
	Time     time.Time `json:"time"`
	Term     uint64    `json:"term"`
	Nodes    []string  `json:"nodes"`
}

// backed is a file of a run that goes into a backup. It is open: what removes it does not take it away.
type backed struct {
	name   string
	record membership.FileState
	file   *os.File
}

// snapshotTries bounds how often a state is taken whose files were replaced before they were open.
const snapshotTries = 5

// Backup sends the state as of one entry of the log, and the checkpoints of jobs that have not ended as that state lists them.
func (c *cluster) Backup(_ *mppb.BackupRequest, stream mppb.Cluster_BackupServer) error {
	r := c.reigns.Load()
	if r == nil {
		return c.notLeader()
	}
	var state []byte
	var files []backed
	defer func() { closeAll(files) }()
	for try := 1; ; try++ {
		var err error
		if state, files, err = c.consistent(stream.Context()); err == nil {
			break
		}
		if try == snapshotTries || stream.Context().Err() != nil {
			return err
		}
	}
	a := about{Format: backupFormat, Protocol: mppb.Protocol, Version: c.cfg.Version, Time: time.Now().UTC(), Term: r.raft.CurrentTerm()}
	for _, p := range c.peers() {
		a.Nodes = append(a.Nodes, p.ID)
	}
	text, err := json.Marshal(a)
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	for _, small := range []struct {
		name    string
		content []byte
	}{{backupAbout, text}, {backupState, state}} {
		sum := sha256.Sum256(small.content)
		file := &mppb.FileState{Path: small.name, Size: uint64(len(small.content)), Sha256: hex.EncodeToString(sum[:])}
		if err := c.sendParts(stream, file, bytes.NewReader(small.content), 0); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := c.sendParts(stream, &mppb.FileState{Path: f.name, Size: f.record.Size, Sha256: f.record.SHA256}, f.file, 0); err != nil {
			return err
		}
	}
	return nil
}

func closeAll(files []backed) {
	for _, f := range files {
		f.file.Close()
	}
}

// consistent takes the state and opens what it names.
func (c *Coordinator) consistent(ctx context.Context) (text []byte, files []backed, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	taken, err := c.fsm.Snapshot()
	if err != nil {
		return nil, nil, status.Error(codes.Internal, err.Error())
	}
	text = taken.(snapshot)
	s := membership.New()
	if err := json.Unmarshal(text, s); err != nil {
		return nil, nil, status.Error(codes.Internal, err.Error())
	}
	for _, j := range s.Jobs {
		if j.State.Ended() {
			continue
		}
		needed := slices.DeleteFunc(slices.Clone(j.Files), func(f membership.FileState) bool { return arrivalOrder(f.Path) == 0 })
		slices.SortStableFunc(needed, func(a, b membership.FileState) int { return cmp.Compare(arrivalOrder(a.Path), arrivalOrder(b.Path)) })
		for _, f := range needed {
			if err := c.mirror.ensure(ctx, j.ID, j.Directory, f); err != nil {
				return nil, files, err
			}
			file, _, err := c.shelf.open(j.Directory, f.Path)
			if err != nil {
				return nil, files, c.fileError(f.Path, err)
			}
			files = append(files, backed{path.Join(backupRuns, j.Directory, f.Path), f, file})
			sum := sha256.New()
			if n, err := io.Copy(sum, file); err != nil || uint64(n) != f.Size || hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
				return nil, files, status.Errorf(codes.Aborted, "%s of %s was replaced while a backup was made: ask again", f.Path, j.ID)
			}
		}
	}
	return text, files, nil
}

// arrivalOrder sorts what a run goes on from as it must arrive: a manifest makes its checkpoint whole, and pointers come last. 0:
// something else.
func arrivalOrder(p string) int {
	switch {
	case isPointer(p):
		return 3
	case checkpointOf(p) == "":
		return 0
	case path.Base(p) == manifestName:
		return 2
	}
	return 1
}

// ErrBackup is matched by what Restore returns when a backup is damaged, cut short, or none.
var ErrBackup = errors.New("not a whole backup")

func noBackup(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBackup, fmt.Sprintf(format, args...))
}

// absent says whether a directory is not there, or empty.
func absent(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(entries) == 0, err
}

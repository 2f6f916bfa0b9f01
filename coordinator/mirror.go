package coordinator

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mp/coordinator/membership"
	"mp/mppb"
)

// mirror keeps this node's disk as the log says: it fetches recorded files that are missing from nodes that have them, and
// removes checkpoints that were dropped.
type mirror struct {
	c *Coordinator

	turn chan struct{} // one fetch at a time: capacity 1

	mu      sync.Mutex
	known   map[string]string // directory/path -> SHA-256 of what lies here whole
	dropped []dropped
	retry   map[string]time.Time // not before
}

type dropped struct{ job, path string }

// lookEvery bounds how often the list of files is compared with the disk.
const lookEvery = 100 * time.Millisecond

func newMirror(c *Coordinator) *mirror {
	return &mirror{c: c, turn: make(chan struct{}, 1), known: map[string]string{}, retry: map[string]time.Time{}}
}

func (m *mirror) learn(directory string, f membership.FileState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known[directory+"/"+f.Path] = f.SHA256
	delete(m.retry, directory+"/"+f.Path)
}

// replace runs change, which replaces a file here and has the new one recorded, while nothing is fetched.
func (m *mirror) replace(ctx context.Context, change func() error) error {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
		return change()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *mirror) forget(directory, path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, directory+"/"+path)
}

// has says whether a recorded file lies here whole.
func (m *mirror) has(directory string, f membership.FileState) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return f.Path != "" && m.known[directory+"/"+f.Path] == f.SHA256
}

// drop removes files, later. It is called by the state machine.
func (m *mirror) drop(job string, paths []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range paths {
		m.dropped = append(m.dropped, dropped{job, p})
	}
}

// wanted is a recorded file that is not known to be here.
type wanted struct {
	job, directory string
	file           membership.FileState
}

// run works until ctx ends.
func (m *mirror) run(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		changed := m.c.fsm.wait()
		m.remove()
		next := time.Hour
		for _, w := range m.missing() {
			if ctx.Err() != nil {
				return
			}
			if err := m.ensure(ctx, w.job, w.directory, w.file); err != nil && ctx.Err() == nil {
				m.later(w, err)
				next = time.Second
			}
		}
		pause.Reset(next)
		select {
		case <-changed:
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		pause.Reset(lookEvery)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *mirror) later(w wanted, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := w.directory + "/" + w.file.Path
	level := m.c.log.Debug
	if _, again := m.retry[key]; !again {
		level = m.c.log.Warn
	}
	m.retry[key] = time.Now().Add(time.Second)
	level("cannot copy a file of a run from another coordinator; trying on", "job", w.job, "path", w.file.Path, "error", err)
}

// missing lists what to fetch: pointers last, after the checkpoints that they name.
func (m *mirror) missing() []wanted {
	var files, pointers []wanted
	m.c.fsm.read(func(s *membership.State) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, j := range s.Jobs {
			for _, f := range j.Files {
				key := j.Directory + "/" + f.Path
				switch {
				case len(f.Nodes) == 0 || m.known[key] == f.SHA256 || time.Now().Before(m.retry[key]):
				case isPointer(f.Path):
					pointers = append(pointers, wanted{j.ID, j.Directory, f})
				default:
					files = append(files, wanted{j.ID, j.Directory, f})
				}
			}
		}
	})
	// A manifest makes its checkpoint whole: it comes after the other files.
	var out, manifests []wanted
	for _, w := range files {
		if name := checkpointOf(w.file.Path); name != "" && w.file.Path == "checkpoints/"+name+"/"+manifestName {
			manifests = append(manifests, w)
		} else {
			out = append(out, w)
		}
	}
	return append(append(out, manifests...), pointers...)
}

// remove removes what was dropped.
func (m *mirror) remove() {
	m.mu.Lock()
	all := m.dropped
	m.dropped = nil
	m.mu.Unlock()
	done := map[string]bool{}
	for _, d := range all {
		directory := ""
		m.c.fsm.read(func(s *membership.State) {
			if j := s.Job(d.job); j != nil {
				directory = j.Directory
			}
		})
		name := checkpointOf(d.path)
		if directory == "" || name == "" {
			continue
		}
		m.forget(directory, d.path)
		if done[directory+"/"+name] {
			continue
		}
		done[directory+"/"+name] = true
		if err := m.c.shelf.removeCheckpoint(directory, name); err != nil {
			m.c.log.Warn("cannot remove an old checkpoint", "checkpoint", name, "directory", directory, "error", err)
		}
	}
}

// ensure returns when the recorded file lies here whole: it was there, or it was fetched from a node that has it.
func (m *mirror) ensure(ctx context.Context, job, directory string, f membership.FileState) error {
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-m.turn }()
	// The list may be old, and a file that is replaced is so under this turn, until its record is applied.
	now, err := m.c.find(job, f.Path)
	if err != nil || now.record.SHA256 != f.SHA256 || m.has(directory, f) {
		return err
	}
	size, sum, err := m.c.shelf.digest(directory, f.Path)
	if err == nil && uint64(size) == f.Size && sum == f.SHA256 {
		m.learn(directory, f)
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m.c.fileError(f.Path, err)
	}
	if err == nil && contains(f.Nodes, m.c.cfg.ID) && checkpointOf(f.Path) == "" && !isPointer(f.Path) {
		// Somebody on this machine has gone on writing it (metrics): what lies here is newer. The leader records it again.
		return status.Errorf(codes.Unavailable, "%s has changed on coordinator %s", f.Path, m.c.cfg.ID)
	}
	err = status.Errorf(codes.Unavailable, "%s of %s is on none of the coordinators that run: start %v", f.Path, job, f.Nodes)
	for _, p := range m.c.peers() {
		if p.ID == m.c.cfg.ID {
			continue
		}
		if e := m.fetch(ctx, p, job, directory, f); e == nil {
			m.learn(directory, f)
			return nil
		} else if status.Code(e) != codes.NotFound && status.Code(e) != codes.Unavailable {
			err = e
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}

// fetch copies a file from one node. What has come before a break is kept.
func (m *mirror) fetch(ctx context.Context, from Peer, job, directory string, f membership.FileState) error {
	conn, err := m.c.peerConn(from)
	if err != nil {
		return err
	}
	want := mark{Path: f.Path, Size: int64(f.Size), SHA256: f.SHA256}
	offset := int64(0)
	if old, have := m.c.shelf.partial(directory, f.Path); old == want {
		offset = have
	}
	if name := checkpointOf(f.Path); name != "" && m.c.shelf.wholeCheckpoint(directory, name) {
		// It lies here whole, and is another than the log says: damaged, or the rest of an upload nobody recorded.
		if err := m.c.shelf.removeCheckpoint(directory, name); err != nil {
			return err
		}
	}
	a, err := m.c.shelf.arrive(directory, want, offset)
	if err != nil {
		return m.c.fileError(f.Path, err)
	}
	// A node that has died without a word must not hold up the others; one that sends slowly may.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(5*m.c.cfg.FailAfter, cancel)
	defer quiet.Stop()
	err = mppb.Fetch(m.c.asNode(ctx), mppb.NewClusterClient(conn), &mppb.FileName{Job: job, Path: f.Path, Offset: uint64(offset)}, mppb.Receiver{
		Begin: func(s *mppb.FileState) error {
			if s.Sha256 != f.SHA256 {
				return status.Errorf(codes.NotFound, "coordinator %s has another version of %s", from.ID, f.Path)
			}
			return nil
		},
		Write: func(data []byte) error {
			quiet.Reset(5 * m.c.cfg.FailAfter)
			return a.write(data)
		},
	})
	switch {
	case err == nil:
	case status.Code(err) == codes.Unknown: // of the disk, or damaged
		a.drop()
		return m.c.fileError(f.Path, err)
	default:
		a.keep()
		return err
	}
	if err := a.commit(); err != nil {
		return m.c.fileError(f.Path, err)
	}
	return nil
}

// asNode marks calls as those of a coordinator.
func (c *Coordinator) asNode(ctx context.Context) context.Context {
	ctx = metadata.AppendToOutgoingContext(ctx, nodeKey, c.cfg.ID)
	if c.cfg.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, mppb.TokenKey, c.cfg.Token)
	}
	return ctx
}

// peerConn returns the connection for calls to another coordinator.
func (c *Coordinator) peerConn(p Peer) (*grpc.ClientConn, error) {
	c.connsMu.Lock()
	defer c.connsMu.Unlock()
	if conn := c.conns[p.ID]; conn != nil {
		return conn, nil
	}
	conn, err := mppb.Connect(mppb.ClientConfig{FailAfter: c.cfg.FailAfter, Dial: c.cfg.hooks.dial}, p.Address)
	if err == nil {
		c.conns[p.ID] = conn
	}
	return conn, err
}

package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/coordinator/membership"
	"mp/mppb"
)

// fileError maps what a shelf says onto gRPC's codes.
func (c *Coordinator) fileError(p string, err error) error {
	var code codes.Code
	text := err.Error()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errBadName):
		code = codes.InvalidArgument
	case errors.Is(err, errTaken):
		code = codes.AlreadyExists
	case errors.Is(err, errOffset):
		code = codes.OutOfRange
	case errors.Is(err, errSum):
		code = codes.DataLoss
	case errors.Is(err, errBusy):
		code = codes.Unavailable // an earlier call that has not noticed its end yet: ask again
	case errors.Is(err, fs.ErrNotExist):
		code, text = codes.NotFound, "there is no such file"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code, text = codes.ResourceExhausted, fmt.Sprintf("%s; free space under %s there, the run goes on and brings its next checkpoint", diskError(err), c.cfg.RunsDir)
	default:
		code = codes.Internal
	}
	return status.Errorf(code, "%s on coordinator %s: %s", p, c.cfg.ID, text)
}

// found is a job and the record of one of its files.
type found struct {
	directory string
	record    membership.FileState // zero: not recorded
	files     int
}

func (c *Coordinator) find(job, p string) (found, error) {
	var f found
	var known bool
	c.fsm.read(func(s *membership.State) {
		j := s.Job(job)
		if known = j != nil; !known {
			return
		}
		f.directory, f.files = j.Directory, len(j.Files)
		for _, r := range j.Files {
			if r.Path == p {
				f.record = r
			}
		}
	})
	switch {
	case !known:
		return f, status.Errorf(codes.NotFound, "no job %q", job)
	case checkPath(p) != nil:
		return f, c.fileError(p, checkPath(p))
	case checkElement(f.directory) != nil:
		return f, c.fileError(p, checkElement(f.directory))
	}
	return f, nil
}

// HasFile says what is here of a file: for workers the leader's word, for other coordinators this node's.
func (c *control) HasFile(ctx context.Context, name *mppb.FileName) (*mppb.FileState, error) {
	if c.reigns.Load() == nil && !fromNode(ctx) {
		return nil, c.notLeader()
	}
	f, err := c.find(name.Job, name.Path)
	if err != nil {
		return nil, err
	}
	if c.mirror.has(f.directory, f.record) {
		return fromFile(name.Job, f.record), nil
	}
	m, have := c.shelf.partial(f.directory, name.Path)
	return &mppb.FileState{Job: name.Job, Path: name.Path, Size: uint64(m.Size), Sha256: m.SHA256, Have: uint64(have)}, nil
}

// PutFile takes in a file. It answers when the file is whole, recorded, and on a majority of the coordinators.
func (c *control) PutFile(stream mppb.Control_PutFileServer) error {
	r := c.reigns.Load()
	if r == nil {
		return c.notLeader()
	}
	part, err := stream.Recv()
	if err != nil {
		return err
	}
	if part.File == nil {
		return status.Error(codes.InvalidArgument, "the first part does not say which file it is of")
	}
	job, p := part.File.Job, part.File.Path
	f, err := c.find(job, p)
	if err != nil {
		return err
	}
	m := mark{Path: p, Size: int64(part.File.Size), SHA256: part.File.Sha256}
	switch {
	case len(m.SHA256) != 64:
		return status.Errorf(codes.InvalidArgument, "%s comes without its SHA-256", p)
	case f.record.Path == "" && f.files >= maxFilesPerJob:
		return status.Errorf(codes.ResourceExhausted, "%s has %d files already", job, f.files)
	case isPointer(p) && m.Size > maxPointerBytes:
		return status.Errorf(codes.InvalidArgument, "%s has %d bytes: it is the name of a checkpoint", p, m.Size)
	}
	ctx := stream.Context()
	var a *arrival
	if !c.holds(f, m) {
		a, err = c.receiveFile(stream, f, m, part)
		if status.Code(err) == codes.AlreadyExists && c.holds(f, m) { // another coordinator's copy came first
			a, err = nil, nil
		}
		if err != nil {
			return err
		}
	}
	if a != nil {
		if isPointer(p) {
			if err := c.recordCheckpoint(ctx, r, job, f.directory, a); err != nil {
				a.drop()
				return err
			}
		}
	}
	state := membership.FileState{Path: p, Size: uint64(m.Size), SHA256: m.SHA256}
	err = c.mirror.replace(ctx, func() error {
		if a != nil {
			if err := a.commit(); err != nil && !(errors.Is(err, errTaken) && c.holds(f, m)) {
				return c.fileError(p, err)
			}
		}
		c.mirror.learn(f.directory, state)
		return c.grpcError(r.propose(ctx, membership.Command{File: &membership.File{Job: job, Node: c.cfg.ID, File: state}}))
	})
	if err != nil {
		return err
	}
	if err := c.awaitCopies(ctx, r, job, p); err != nil {
		return err
	}
	return stream.SendAndClose(fromFile(job, state))
}

// holds says whether exactly this file lies here whole; a checkpoint that nobody recorded and that is another gives way.
func (c *Coordinator) holds(f found, m mark) bool {
	size, sum, err := c.shelf.digest(f.directory, m.Path)
	if err != nil {
		return false
	}
	if size == m.Size && sum == m.SHA256 {
		return true
	}
	if name := checkpointOf(m.Path); name != "" && f.record.Path == "" && c.shelf.wholeCheckpoint(f.directory, name) {
		// What is left of an upload whose record never reached the log.
		if err := c.shelf.removeCheckpoint(f.directory, name); err != nil {
			c.log.Warn("cannot remove an unrecorded checkpoint", "checkpoint", name, "error", err)
		}
	}
	return false
}

// receiveFile reads the parts of a file. What has come is kept for a later call, unless it is of no use.
func (c *Coordinator) receiveFile(stream mppb.Control_PutFileServer, f found, m mark, part *mppb.FilePart) (*arrival, error) {
	a, err := c.shelf.arrive(f.directory, m, int64(part.Offset))
	if err != nil {
		return nil, c.fileError(m.Path, err)
	}
	for {
		switch {
		case int64(part.Offset) != a.have:
			a.keep()
			return nil, c.fileError(m.Path, errOffset)
		case len(part.Data) > mppb.PartBytes:
			a.keep()
			return nil, status.Errorf(codes.InvalidArgument, "a part of %s has %d bytes; %d is the most", m.Path, len(part.Data), mppb.PartBytes)
		case mppb.Checksum(part.Data) != part.Crc32C:
			a.keep()
			return nil, status.Errorf(codes.DataLoss, "a part of %s at %d was damaged on its way: send it again", m.Path, part.Offset)
		}
		if err := a.write(part.Data); err != nil {
			a.drop() // frees the space for what matters more: the log
			return nil, c.fileError(m.Path, err)
		}
		if part, err = stream.Recv(); err == io.EOF {
			break
		} else if err != nil {
			a.keep()
			return nil, err
		}
	}
	if a.have < m.Size {
		a.keep()
		return nil, status.Errorf(codes.OutOfRange, "%s ended after %d of %d bytes", m.Path, a.have, m.Size)
	}
	return a, nil
}

func isPointer(p string) bool { return p == latestPointer || p == bestPointer }

// recordCheckpoint makes a checkpoint one that a run can start from, before the pointer that a moves to it.
func (c *control) recordCheckpoint(ctx context.Context, r *reign, job, directory string, pointer *arrival) error {
	text := make([]byte, maxPointerBytes)
	n, err := pointer.file.ReadAt(text, 0)
	if err != nil && err != io.EOF {
		return c.fileError(pointer.mark.Path, err)
	}
	name := strings.TrimSuffix(string(text[:n]), "\n")
	if err := checkElement(name); err != nil {
		return c.fileError(pointer.mark.Path, err)
	}
	c.completeCheckpoint(ctx, job, directory, name)
	if !c.shelf.wholeCheckpoint(directory, name) {
		return status.Errorf(codes.FailedPrecondition, "%s cannot name %s: that checkpoint is not whole here; its manifest.json must come last and before the pointer", pointer.mark.Path, name)
	}
	update, err := c.manifestUpdate(directory, name)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "read the manifest of %s: %v", name, err)
	}
	checkpoint := &membership.Checkpoint{Job: job, Name: name, Update: update, Best: pointer.mark.Path == bestPointer}
	prefix := path.Join(checkpointsDir, name) + "/"
	c.fsm.read(func(s *membership.State) {
		if j := s.Job(job); j != nil {
			for _, c := range j.Checkpoints { // both pointers may name one
				checkpoint.Best = checkpoint.Best || c.Name == name && c.Best
			}
			for _, f := range j.Files {
				if strings.HasPrefix(f.Path, prefix) {
					checkpoint.Files = append(checkpoint.Files, f.Path)
				}
			}
		}
	})
	result, err := r.propose(ctx, membership.Command{Checkpoint: checkpoint})
	return c.grpcError(result, err)
}

// completeCheckpoint fetches what another coordinator has of a checkpoint: the leader may have changed since it was brought.
func (c *Coordinator) completeCheckpoint(ctx context.Context, job, directory, name string) {
	for _, w := range c.mirror.missing() {
		if w.job != job || checkpointOf(w.file.Path) != name {
			continue
		}
		if err := c.mirror.ensure(ctx, job, directory, w.file); err != nil {
			c.log.Debug("cannot fetch a file of a checkpoint", "job", job, "path", w.file.Path, "error", err)
			return
		}
	}
}

// manifestUpdate reads the number of updates from a checkpoint's manifest, the only thing that a coordinator reads of one.
func (c *Coordinator) manifestUpdate(directory, name string) (uint64, error) {
	f, size, err := c.shelf.open(directory, path.Join(checkpointsDir, name, manifestName))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var manifest struct {
		Meta struct {
			Step *uint64 `json:"step"`
		} `json:"meta"`
	}
	if size > 16<<20 {
		return 0, fmt.Errorf("it has %d bytes", size)
	}
	if err := json.NewDecoder(f).Decode(&manifest); err != nil {
		return 0, err
	}
	if manifest.Meta.Step == nil {
		return 0, errors.New("it does not say after how many updates it was made (meta.step)")
	}
	return *manifest.Meta.Step, nil
}

// awaitCopies returns when a majority of the coordinators has the file.
func (c *Coordinator) awaitCopies(ctx context.Context, r *reign, job, p string) error {
	for {
		changed := c.fsm.wait()
		f, err := c.find(job, p)
		if err != nil {
			return err
		}
		if len(f.record.Nodes) > len(c.peers())/2 || f.record.Path == "" { // without a record: pruned meanwhile
			return nil
		}
		select {
		case <-changed:
		case <-r.ended:
			return c.notLeader()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

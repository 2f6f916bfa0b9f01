package coordinator

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/coordinator/membership"
	"mp/mppb"
)

// ListFiles names the recorded files of a job.
func (c *cluster) ListFiles(_ context.Context, name *mppb.JobName) (*mppb.FileList, error) {
	list := &mppb.FileList{}
	known := false
	c.fsm.read(func(s *membership.State) {
		j := s.Job(name.Id)
		if known = j != nil; known {
			for _, f := range j.Files {
				list.Files = append(list.Files, fromFile(j.ID, f))
			}
		}
	})
	if !known {
		return nil, status.Errorf(codes.NotFound, "no job %q: `mp jobs` lists them", name.Id)
	}
	return list, nil
}

// GetFile sends a file of a run. A node that lacks it gets it from another first.
func (c *cluster) GetFile(name *mppb.FileName, stream mppb.Cluster_GetFileServer) error {
	ctx := stream.Context()
	f, err := c.find(name.Job, name.Path)
	if err != nil {
		return err
	}
	if f.record.Path == "" {
		return status.Errorf(codes.NotFound, "%s has no file %s", name.Job, name.Path)
	}
	if !c.mirror.has(f.directory, f.record) {
		if fromNode(ctx) {
			return status.Errorf(codes.NotFound, "%s is not on coordinator %s", name.Path, c.cfg.ID)
		}
		if err := c.mirror.ensure(ctx, name.Job, f.directory, f.record); err != nil {
			return err
		}
	}
	file, size, err := c.shelf.open(f.directory, name.Path)
	if errors.Is(err, fs.ErrNotExist) {
		c.mirror.forget(f.directory, name.Path) // somebody removed it by hand: the mirror brings it back
		return status.Errorf(codes.Unavailable, "%s is missing on coordinator %s", name.Path, c.cfg.ID)
	}
	if err != nil {
		return c.fileError(name.Path, err)
	}
	defer file.Close()
	if uint64(size) != f.record.Size {
		c.mirror.forget(f.directory, name.Path)
		return status.Errorf(codes.Unavailable, "%s has changed on coordinator %s", name.Path, c.cfg.ID)
	}
	if name.Offset > f.record.Size {
		return c.fileError(name.Path, errOffset)
	}
	return c.sendParts(stream, fromFile(name.Job, f.record), file, int64(name.Offset))
}

// sendParts sends a file from an offset on; the first part says which it is.
func (c *Coordinator) sendParts(stream grpc.ServerStreamingServer[mppb.FilePart], file *mppb.FileState, from io.ReaderAt, at int64) error {
	// A fresh buffer a part: gRPC may still be sending the last one.
	for size, first := int64(file.Size), true; first || at < size; first = false {
		buffer := make([]byte, min(mppb.PartBytes, size-at))
		n, err := from.ReadAt(buffer, at)
		if err != nil && (err != io.EOF || n < len(buffer)) {
			return c.fileError(file.Path, err)
		}
		part := &mppb.FilePart{Offset: uint64(at), Data: buffer, Crc32C: mppb.Checksum(buffer)}
		if first {
			part.File = file
		}
		if err := stream.Send(part); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

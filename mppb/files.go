package mppb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errDamaged is in the chain of what reading a file returns whose bytes do not have the announced checksum.
var errDamaged = errors.New("damaged on its way")

// Checksum is the crc32c of a part's data.
func Checksum(data []byte) uint32 { return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) }

// Upload brings a file of this machine to the coordinators and returns when it is whole there: recorded, and on the disks of
// as many of them as it takes not to lose it with one. What has arrived before a break is not sent again. From is read from
// its beginning and must not change meanwhile. Like Do it goes on until ctx ends, or the leader says that it never can be.
func (c *Client) Upload(ctx context.Context, name *FileName, from *os.File) (*FileState, error) {
	h := sha256.New()
	size, err := io.Copy(h, io.NewSectionReader(from, 0, 1<<62))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", from.Name(), err)
	}
	want := &FileState{Job: name.Job, Path: name.Path, Size: uint64(size), Sha256: hex.EncodeToString(h.Sum(nil))}
	var got *FileState
	err = c.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		got, err = upload(ctx, NewControlClient(conn), want, from)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("upload %s of %s: %w", name.Path, name.Job, err)
	}
	return got, nil
}

func upload(ctx context.Context, control ControlClient, want *FileState, from io.ReaderAt) (*FileState, error) {
	has, err := control.HasFile(ctx, &FileName{Job: want.Job, Path: want.Path})
	if err != nil {
		return nil, err
	}
	offset := uint64(0)
	if has.Sha256 == want.Sha256 && has.Size == want.Size {
		if has.Whole {
			return has, nil
		}
		offset = has.Have
	}
	stream, err := control.PutFile(ctx)
	if err != nil {
		return nil, err
	}
	buffer := make([]byte, PartBytes)
	for first := true; first || offset < want.Size; first = false {
		part := &FilePart{Offset: offset}
		if first {
			part.File = want
		}
		n, err := from.ReadAt(buffer[:min(uint64(len(buffer)), want.Size-offset)], int64(offset))
		if err != nil && (err != io.EOF || uint64(n) < min(uint64(len(buffer)), want.Size-offset)) {
			return nil, fmt.Errorf("read at %d: %w", offset, err)
		}
		part.Data = buffer[:n]
		part.Crc32C = Checksum(part.Data)
		if err := stream.Send(part); err == io.EOF {
			break // the coordinator has said why; CloseAndRecv tells
		} else if err != nil {
			return nil, err
		}
		offset += uint64(n)
	}
	return stream.CloseAndRecv()
}

// Download brings a file of a run to this machine, whole and durable under the path to, or leaves nothing there. What
// arrived before a break within one call is not sent again.
func (c *Client) Download(ctx context.Context, name *FileName, to string) (*FileState, error) {
	dir, base := filepath.Split(to)
	f, err := os.CreateTemp(dir, "."+base+".arriving-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var state *FileState
	have := uint64(0)
	h := sha256.New()
	err = c.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return Fetch(ctx, NewClusterClient(conn), &FileName{Job: name.Job, Path: name.Path, Offset: have}, Receiver{
			Begin: func(s *FileState) error {
				if state != nil && state.Sha256 != s.Sha256 {
					return fmt.Errorf("%s changed while it was fetched: %w", name.Path, errDamaged)
				}
				state = s
				return nil
			},
			Write: func(data []byte) error {
				n, err := f.Write(data)
				h.Write(data[:n])
				have += uint64(n)
				return err
			},
		})
	})
	if err == nil && hex.EncodeToString(h.Sum(nil)) != state.Sha256 {
		err = fmt.Errorf("the SHA-256 of the %d bytes that arrived is not %s: %w", have, state.Sha256, errDamaged)
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = os.Rename(f.Name(), to)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch %s of %s: %w", name.Path, name.Job, err)
	}
	return state, nil
}

// Receiver takes a file in. Its functions are called from one goroutine: Begin once, then Write for every part in order.
// Write must not keep data. An error of theirs ends the transfer and is returned.
type Receiver struct {
	Begin func(*FileState) error
	Write func(data []byte) error
}

// Fetch reads one file from one coordinator, from name.Offset to its end. The parts' checksums are compared; the whole
// file's is the receiver's to compare.
func Fetch(ctx context.Context, cluster ClusterClient, name *FileName, to Receiver) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := cluster.GetFile(ctx, name)
	if err != nil {
		return err
	}
	var file *FileState
	at := name.Offset
	for {
		part, err := stream.Recv()
		if err == io.EOF {
			if file == nil || at != file.Size {
				return status.Errorf(codes.Unavailable, "%s ended after %d bytes", name.Path, at)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if file == nil {
			if file = part.File; file == nil {
				return fmt.Errorf("the first part of %s does not say what follows: %w", name.Path, errDamaged)
			}
			if err := to.Begin(file); err != nil {
				return err
			}
		}
		if part.Offset != at || at+uint64(len(part.Data)) > file.Size || Checksum(part.Data) != part.Crc32C {
			return fmt.Errorf("part of %s at %d: %w", name.Path, part.Offset, errDamaged)
		}
		if err := to.Write(part.Data); err != nil {
			return err
		}
		at += uint64(len(part.Data))
	}
}

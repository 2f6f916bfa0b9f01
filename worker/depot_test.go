package worker

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/mppb"
)

// stocked is coordinators that have one checkpoint whole.
type stocked struct {
	mppb.UnimplementedControlServer
	whole string   // folder of the checkpoint
	came  []string // files that were taken in
}

func (s *stocked) HasFile(context.Context, *mppb.FileName) (*mppb.FileState, error) {
	return &mppb.FileState{}, nil
}

func (s *stocked) PutFile(stream mppb.Control_PutFileServer) error {
	part, err := stream.Recv()
	if err != nil {
		return err
	}
	if filepath.Dir(part.File.Path) == s.whole {
		return status.Error(codes.AlreadyExists, "the checkpoint is whole already")
	}
	s.came = append(s.came, part.File.Path)
	return stream.SendAndClose(&mppb.FileState{Job: part.File.Job, Path: part.File.Path, Whole: true})
}

// A worker that takes over saves a state again that its predecessor brought: that one stands, and is pointed at.
func TestACheckpointThatIsThereIsPointedAt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	there := &stocked{whole: "checkpoints/update-00000008"}
	server := grpc.NewServer()
	mppb.RegisterControlServer(server, there)
	go server.Serve(l)
	defer server.Stop()
	client, err := mppb.NewClient(mppb.ClientConfig{Addresses: []string{l.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	d := depot{client: client, scratch: t.TempDir()}
	view := &mppb.View{Job: "job-1"}
	for _, c := range []struct {
		name string
		want []string
	}{
		{"update-00000008", []string{"checkpoints/latest"}},
		{"update-00000009", []string{"checkpoints/update-00000009/model.safetensors", "checkpoints/update-00000009/manifest.json", "checkpoints/latest"}},
	} {
		there.came = nil
		path := filepath.Join(d.folder(view), c.name)
		for _, f := range []string{"model.safetensors", manifestFile} {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(path, f), []byte(f), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.keep(t.Context(), kept{view: view, path: path}); err != nil || !slices.Equal(there.came, c.want) {
			t.Errorf("%s: error %v, files came %v, want %v", c.name, err, there.came, c.want)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still here: %v", c.name, err)
		}
	}
}

// Every state of a job has a name of its own: the one after the last update of an epoch is not the one after its validation.
func TestStatesHaveNamesOfTheirOwn(t *testing.T) {
	for want, got := range map[string]string{
		"update-00000007":             checkpointName(position{Done: 7}, false),
		"update-00000008-unvalidated": checkpointName(position{Done: 8}, true),
		"update-00000008":             checkpointName(position{Done: 8, Validated: 1}, false),
		"update-00000008-3":           checkpointName(position{Done: 8, Validated: 1, Replay: 3}, false),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

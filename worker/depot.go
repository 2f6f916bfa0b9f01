package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/mppb"
)

// depot is the library of a worker of a cluster: the coordinators'. What it writes goes through a scratch folder.
type depot struct {
	client  *mppb.Client
	scratch string
}

// Names in a run's directory, as package checkpoint has them.
const (
	checkpointsFolder = "checkpoints"
	manifestFile      = "manifest.json"
)

func (d depot) folder(v *mppb.View) string { return filepath.Join(d.scratch, "made", v.Job) }

// keep brings the files to the coordinators, the manifest last, then the pointer, and removes what lies here. What they
// have already, from a worker that began before, is not sent again; where they have the whole checkpoint, written by a
// worker that has gone meanwhile, that one stands: its name says that its state is the same.
func (d depot) keep(ctx context.Context, k kept) error {
	name := filepath.Base(k.path)
	entries, err := os.ReadDir(k.path)
	if err != nil {
		return fmt.Errorf("bring checkpoint %s to the coordinators: %w", name, err)
	}
	files := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.Name() != manifestFile {
			files = append(files, e.Name())
		}
	}
	for _, f := range append(files, manifestFile) {
		err := d.put(ctx, k.view.Job, path.Join(checkpointsFolder, name, f), filepath.Join(k.path, f))
		if status.Code(err) == codes.AlreadyExists {
			break
		}
		if err != nil {
			return err
		}
	}
	pointer := "latest"
	if k.best {
		pointer = "best"
	}
	local := k.path + "." + pointer
	if err := os.WriteFile(local, []byte(name+"\n"), 0o644); err != nil {
		return fmt.Errorf("write pointer: %w", err)
	}
	if err := d.put(ctx, k.view.Job, path.Join(checkpointsFolder, pointer), local); err != nil {
		return err
	}
	if err := os.Remove(local); err != nil {
		return fmt.Errorf("remove pointer: %w", err)
	}
	return os.RemoveAll(k.path)
}

func (d depot) put(ctx context.Context, job, name, local string) error {
	f, err := os.Open(local)
	if err != nil {
		return fmt.Errorf("bring %s to the coordinators: %w", name, err)
	}
	defer f.Close()
	_, err = d.client.Upload(ctx, &mppb.FileName{Job: job, Path: name}, f)
	return err
}

// fetch brings a checkpoint from the coordinators here.
func (d depot) fetch(ctx context.Context, v *mppb.View, name string) (string, error) {
	to := filepath.Join(d.scratch, "fetched", v.Job, name)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return "", fmt.Errorf("fetch checkpoint %s: %w", name, err)
	}
	get := func(file string) error {
		_, err := d.client.Download(ctx, &mppb.FileName{Job: v.Job, Path: path.Join(checkpointsFolder, name, file)}, filepath.Join(to, file))
		return err
	}
	if err := get(manifestFile); err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(to, manifestFile))
	if err != nil {
		return "", fmt.Errorf("fetch checkpoint %s: %w", name, err)
	}
	var manifest struct {
		Files map[string]json.RawMessage `json:"files"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		return "", fmt.Errorf("fetch checkpoint %s: its manifest: %w", name, err)
	}
	for file := range manifest.Files {
		if !filepath.IsLocal(file) || filepath.Base(file) != file {
			return "", fmt.Errorf("fetch checkpoint %s: its manifest names %q", name, file)
		}
		if err := get(file); err != nil {
			return "", err
		}
	}
	return to, nil
}

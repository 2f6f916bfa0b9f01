package cmd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"mp/metrics"
	"mp/mppb"
)

// fetched is the result of `mp jobs fetch` as JSON.
type fetched struct {
	Job       string `json:"job"`
	Directory string `json:"directory"`
	Files     int    `json:"files"`
	Bytes     uint64 `json:"bytes"`
}

// newFetchCommand returns `mp jobs fetch`.
func newFetchCommand(e *env) *cobra.Command {
	var f clusterFlags
	out := ""
	c := &cobra.Command{
		Use:   "fetch ID --out DIR",
		Short: "Copy a job's run directory from any coordinator",
		Long: "Copy a job's run directory, or what there is of it, from any coordinator. Files that are there already are left out, and\n" +
			"a copy that broke off goes on where it was.",
		Args: exactArgs("ID"),
	}
	f.add(c)
	c.Flags().StringVar(&out, "out", "", "folder for the files; empty: runs/ and the run's name")
	c.RunE = func(c *cobra.Command, args []string) error {
		result, err := fetchRun(c.Context(), e, f, jobID(args[0]), out)
		if err != nil {
			return fmt.Errorf("fetch %s: %w", jobID(args[0]), err)
		}
		if e.json {
			return e.printJSON(result)
		}
		_, err = fmt.Fprintf(e.stdout, "%d files, %.1f MiB in %s\n", result.Files, float64(result.Bytes)/(1<<20), result.Directory)
		return err
	}
	return c
}

func fetchRun(ctx context.Context, e *env, f clusterFlags, id, out string) (fetched, error) {
	client, err := f.client(ctx)
	if err != nil {
		return fetched{}, err
	}
	defer client.Close()
	if out == "" {
		d, err := showJob(ctx, f, id)
		if err != nil {
			return fetched{}, err
		}
		out = filepath.Join("runs", d.Job.Directory)
	}
	var list *mppb.FileList
	err = f.ask(ctx, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		list, err = c.ListFiles(ctx, &mppb.JobName{Id: id})
		return err
	})
	if err != nil {
		return fetched{}, err
	}
	result := fetched{Job: id, Directory: out}
	for _, file := range list.Files {
		result.Files++
		result.Bytes += file.Size
	}
	bar := e.byteProgress("fetch", int64(result.Bytes))
	defer bar.Finish()
	for _, file := range list.Files {
		if !filepath.IsLocal(filepath.FromSlash(file.Path)) {
			return fetched{}, fmt.Errorf("the coordinator names a file %q, which would lie outside %s", file.Path, out)
		}
		// A coordinator that goes away is replaced by another; only one that answers and never delivers ends the patience.
		target := incoming{path: filepath.Join(out, filepath.FromSlash(file.Path)), want: file, bar: bar}
		if err := target.fetch(ctx, client, f.wait); err != nil {
			return fetched{}, fmt.Errorf("%s: %w", file.Path, err)
		}
	}
	return result, assemble(out)
}

// incoming is a file on its way.
type incoming struct {
	path string
	want *mppb.FileState
	bar  *metrics.Progress
}

// partSuffix marks a file that has not arrived as a whole.
const partSuffix = ".part"

// fetch copies the file unless it is there, from where an earlier attempt broke off. Patience is how long it may make no
// headway.
func (i incoming) fetch(ctx context.Context, client *mppb.Client, patience time.Duration) error {
	if sum, err := hashFile(i.path); err == nil && sum == i.want.Sha256 {
		i.bar.Add(int64(i.want.Size))
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(i.path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(i.path+partSuffix, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if uint64(have) > i.want.Size {
		have = 0
	}
	i.bar.Add(have)
	at := uint64(have)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(patience, func() { cancel(fmt.Errorf("nothing arrived for %s", patience)) })
	defer timer.Stop()
	err = askLeader(ctx, client, func(ctx context.Context, c mppb.ClusterClient) error {
		return mppb.Fetch(ctx, c, &mppb.FileName{Job: i.want.Job, Path: i.want.Path, Offset: at}, mppb.Receiver{
			Begin: func(now *mppb.FileState) error {
				if now.Sha256 != i.want.Sha256 {
					return errors.New("it has changed meanwhile: start the fetch again")
				}
				return nil
			},
			Write: func(data []byte) error {
				n, err := f.WriteAt(data, int64(at))
				at += uint64(n)
				i.bar.Add(int64(n))
				timer.Reset(patience)
				return err
			},
		})
	})
	if err != nil {
		return err
	}
	return i.finish(f, at)
}

// finish gives a file that is whole its name.
func (i incoming) finish(f *os.File, size uint64) error {
	if err := f.Truncate(int64(size)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	sum, err := hashFile(f.Name())
	if err != nil {
		return err
	}
	if sum != i.want.Sha256 {
		return errors.Join(fmt.Errorf("what arrived has SHA-256 %s and not %s: fetch it again", sum, i.want.Sha256), os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), i.path)
}

// hashFile is the SHA-256 of a file in hexadecimal.
func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

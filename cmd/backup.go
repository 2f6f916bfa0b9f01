package cmd

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/coordinator"
	"mp/job"
	"mp/mppb"
	"mp/trust"
)

// backupOptions is what `mp coordinator backup` is asked for.
type backupOptions struct {
	cluster    clusterFlags
	dataDir    string
	withSecret bool
}

// newBackupCommand returns `mp coordinator backup`.
func newBackupCommand(e *env) *cobra.Command {
	var o backupOptions
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Keep what it takes to begin a cluster again, while it works",
		Long: "backup writes one file, whole or not at all: jobs, ledgers, story and quarantines as of one moment, and the checkpoints of jobs\n" +
			"that have not ended. The cluster's secret is left out unless --with-secret; without it all others join the restored cluster anew.\n" +
			"Files of jobs that have ended stay in --runs, metrics in --runs and with NATS: they are not in it. FILE is for you alone (0600).",
		Example: "  mp coordinator backup mp.backup --coordinator 10.0.0.1:7070\n  mp coordinator backup mp.backup --with-secret --data-dir /var/lib/mp",
		Args:    exactArgs("FILE"),
	}
	o.cluster.add(c)
	f := c.Flags()
	f.StringVar(&o.dataDir, "data-dir", coordinator.DefaultConfig().DataDir, "a coordinator's folder on this machine, for the cluster's secret where --token is not given")
	f.BoolVar(&o.withSecret, "with-secret", false, "keep the cluster's secret in the file too: whoever has the file can be anybody then")
	c.RunE = func(c *cobra.Command, args []string) error { return backUp(c.Context(), e, o, args[0]) }
	return c
}

// backedUp is what `mp coordinator backup --json` prints.
type backedUp struct {
	File   string `json:"file"`
	Bytes  int64  `json:"bytes"`
	Files  int    `json:"files"`
	Secret bool   `json:"secret"`
}

func backUp(ctx context.Context, e *env, o backupOptions, to string) (err error) {
	secret := o.cluster.trust.shared()
	if o.cluster.trust.token == "" {
		secret, err = readSecret(filepath.Join(o.dataDir, secretFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		o.cluster.trust.token = secret
	}
	if o.withSecret && secret == "" {
		return fmt.Errorf("%w: --with-secret, and no secret is known here: give it with --token, or a coordinator's --data-dir that holds it", job.ErrConfig)
	}
	if !o.withSecret {
		secret = ""
	}
	client, err := o.cluster.clientAs(ctx, trust.Coordinator)
	if err != nil {
		return err
	}
	defer client.Close()
	f, err := os.CreateTemp(filepath.Dir(to), ".backup-*") // 0600
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(o.cluster.wait, func() { cancel(context.DeadlineExceeded) })
	defer quiet.Stop()
	b := backedUp{File: to, Secret: secret != ""}
	err = client.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if err := f.Truncate(0); err != nil {
			return err
		}
		stream, err := mppb.NewClusterClient(conn).Backup(ctx, &mppb.BackupRequest{})
		if err != nil {
			return err
		}
		b.Files, err = archiveParts(f, secret, func() (*mppb.FilePart, error) {
			part, err := stream.Recv()
			quiet.Reset(o.cluster.wait)
			return part, err
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("back up: %w", clusterError(err))
	}
	if b.Bytes, err = f.Seek(0, io.SeekCurrent); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close(), os.Rename(f.Name(), to)); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	if e.json {
		return e.printJSON(b)
	}
	with := "the cluster's secret is not in it"
	if b.Secret {
		with = "the cluster's secret is in it"
	}
	_, err = fmt.Fprintf(e.stdout, "%s: %s bytes, %d files; %s\n", to, grouped(b.Bytes), b.Files, with)
	return err
}

// archiveParts writes a backup's file from what a coordinator sends, and the sums of all that is in it to its end.
func archiveParts(to io.Writer, secret string, recv func() (*mppb.FilePart, error)) (files int, err error) {
	archive := tar.NewWriter(to)
	var sums strings.Builder
	entry := func(name string, size int64) error {
		return archive.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o600, ModTime: time.Now()})
	}
	whole := func(name, content string) error {
		if err := entry(name, int64(len(content))); err != nil {
			return err
		}
		_, err := io.WriteString(archive, content)
		return err
	}
	if secret != "" {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256([]byte(secret)), coordinator.BackupSecret)
		if err := whole(coordinator.BackupSecret, secret); err != nil {
			return 0, err
		}
	}
	again := func(name string) error {
		return status.Errorf(codes.Unavailable, "%s was damaged or cut short on its way", name)
	}
	var file *mppb.FileState
	var sum hash.Hash
	left := uint64(0)
	finish := func() error {
		if file == nil {
			return nil
		}
		if left != 0 || hex.EncodeToString(sum.Sum(nil)) != file.Sha256 {
			return again(file.Path)
		}
		files++
		fmt.Fprintf(&sums, "%s  %s\n", file.Sha256, file.Path)
		return nil
	}
	for {
		part, err := recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
		if part.File != nil {
			if err := finish(); err != nil {
				return 0, err
			}
			file, sum, left = part.File, sha256.New(), part.File.Size
			if err := entry(file.Path, int64(file.Size)); err != nil {
				return 0, err
			}
		}
		if file == nil || uint64(len(part.Data)) > left || mppb.Checksum(part.Data) != part.Crc32C {
			return 0, again(file.GetPath())
		}
		left -= uint64(len(part.Data))
		sum.Write(part.Data)
		if _, err := archive.Write(part.Data); err != nil {
			return 0, err
		}
	}
	if err := finish(); err != nil {
		return 0, err
	}
	if err := whole(coordinator.BackupSums, sums.String()); err != nil {
		return 0, err
	}
	return files, archive.Close()
}

// newRestoreCommand returns `mp coordinator restore`.
func newRestoreCommand(e *env) *cobra.Command {
	var dataDir, runs, peers string
	d := coordinator.DefaultConfig()
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the folders of a coordinator that begins with what a backup holds",
		Long: "restore checks a backup and makes of it what a coordinator needs that has lost its --data-dir: start it as before then, and jobs go\n" +
			"on, from what workers that survived have or from their checkpoints in the backup, with the same bits. Of several coordinators\n" +
			"restore every one from the same file before any is started: what is left of the old cluster must not come back.\n" +
			"Jobs that were handed in after the backup are forgotten.",
		Example: "  mp coordinator restore mp.backup --data-dir /var/lib/mp --runs runs\n  mp coordinator restore mp.backup --peers a=10.0.0.1:7070,b=10.0.0.2:7070,c=10.0.0.3:7070",
		Args:    exactArgs("FILE"),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&dataDir, "data-dir", d.DataDir, "the coordinator's folder, as it will be told; it must hold no raft log")
	f.StringVar(&runs, "runs", d.RunsDir, "folder for the directories of runs, as it will be told; what is there stays")
	f.StringVar(&peers, "peers", "", "all coordinators, as they will be told, where they are others than before: ID=HOST:PORT with commas between; empty: as before")
	c.RunE = func(_ *cobra.Command, args []string) error {
		list, err := parsePeers(peers)
		if err != nil {
			return err
		}
		config := coordinator.RestoreConfig{DataDir: filepath.Join(dataDir, raftFolder), RunsDir: runs}
		for _, p := range list {
			config.Nodes = append(config.Nodes, p.ID)
		}
		return restoreBackup(e, args[0], dataDir, config)
	}
	return c
}

// restoredFrom is what `mp coordinator restore --json` prints.
type restoredFrom struct {
	DataDir      string   `json:"data_dir"`
	Jobs         int      `json:"jobs"` // that go on
	Files        int      `json:"files"`
	Secret       bool     `json:"secret"`
	Coordinators []string `json:"coordinators"`
}

func restoreBackup(e *env, file, dataDir string, config coordinator.RestoreConfig) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer f.Close()
	out, err := coordinator.Restore(config, f)
	if err != nil {
		return fmt.Errorf("restore %s: %w", file, err)
	}
	secret := filepath.Join(dataDir, secretFile)
	if out.Secret != "" && !exists(secret) {
		if err := writeSecret(secret, out.Secret); err != nil {
			return err
		}
	}
	slices.Sort(out.Nodes)
	if e.json {
		return e.printJSON(restoredFrom{dataDir, out.Jobs, out.Files, out.Secret != "", out.Nodes})
	}
	_, err = fmt.Fprintf(e.stdout, "%s is ready: %d jobs go on, %d files of theirs are in %s\nNext: the same on every one of %s, with this file; then start them as before\n",
		dataDir, out.Jobs, out.Files, config.RunsDir, strings.Join(out.Nodes, ", "))
	return err
}

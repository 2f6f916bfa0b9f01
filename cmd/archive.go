package cmd

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mp/metrics"
	"mp/metrics/tensorboard"
	"mp/mppb"
)

// toldFolder holds, among a run's files at the coordinators, what each of them has recorded of it. A coordinator's own
// record lies at the top of its copy of the run's directory; they are put together when a run is fetched.
const toldFolder = "told"

// archiveEvery is the time between two looks for jobs that have ended.
const archiveEvery = 2 * time.Second

// recordedFiles are what a recorder writes.
func recordedFiles() []string { return []string{metrics.MetricsFile, metrics.EventsFile} }

// archive brings what this node has recorded of jobs that have ended to all coordinators, until ctx ends, so that a run can
// be fetched from any.
func (h *hub) archive(ctx context.Context, client *mppb.Client) error {
	tick := time.NewTicker(archiveEvery)
	defer tick.Stop()
	ended := map[string]bool{} // seen once: the recorder has had time for the last words
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		for _, id := range h.runs.touched() {
			d, err := showOnce(ctx, client, id)
			switch {
			case err != nil || goesOn(d.Job.State):
			case !ended[id]:
				ended[id] = true
			case h.keepRecord(ctx, client, d.Job) == nil:
				h.runs.forget(id)
				delete(ended, id)
			}
		}
	}
}

// showOnce asks the leader for a job and gives up soon: there is another time.
func showOnce(ctx context.Context, client *mppb.Client, id string) (*mppb.JobDetail, error) {
	ctx, cancel := context.WithTimeout(ctx, syncWithin)
	defer cancel()
	var d *mppb.JobDetail
	err := askLeader(ctx, client, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		d, err = c.Show(ctx, &mppb.JobName{Id: id})
		return err
	})
	return d, err
}

// keepRecord brings this node's record of a job to all coordinators.
func (h *hub) keepRecord(ctx context.Context, client *mppb.Client, j *mppb.Job) error {
	h.sync()
	dir := filepath.Join(h.runs.runs, j.Directory)
	for _, name := range append(recordedFiles(), jobFile) {
		content, err := os.ReadFile(filepath.Join(dir, name)) // as it is now: the recorder may append
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		to := path.Join(toldFolder, h.id, name)
		if name == jobFile {
			to = name
		}
		if err := upload(ctx, client, &mppb.FileName{Job: j.Id, Path: to}, content); err != nil {
			return err
		}
	}
	return h.keepPictures(ctx, client, j, dir)
}

// keptPictures bounds how many pictures of a run are brought away: the newest.
const keptPictures = 300

// keepPictures brings a run's pictures and its files for TensorBoard to all coordinators. They lie there as they do here: a
// picture is the same whoever drew it, and names of files say who wrote them.
func (h *hub) keepPictures(ctx context.Context, client *mppb.Client, j *mppb.Job, dir string) error {
	pictures, err := filepath.Glob(filepath.Join(dir, metrics.PicturesFolder, "*.png"))
	if err != nil {
		return err
	}
	slices.Sort(pictures)
	curves, err := filepath.Glob(filepath.Join(dir, tensorboard.Folder, "*", "*"))
	if err != nil {
		return err
	}
	for _, file := range append(pictures[max(0, len(pictures)-keptPictures):], curves...) {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if err := upload(ctx, client, &mppb.FileName{Job: j.Id, Path: filepath.ToSlash(inside)}, content); err != nil {
			return err
		}
	}
	return nil
}

func upload(ctx context.Context, client *mppb.Client, name *mppb.FileName, content []byte) error {
	f, err := os.CreateTemp("", "mp-record-")
	if err != nil {
		return fmt.Errorf("make a temporary file: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return fmt.Errorf("write a temporary file: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = client.Upload(ctx, name, f)
	return err
}

// assemble puts what several coordinators have recorded of a run together, in a fetched directory: in the order in which it
// happened, each line once.
func assemble(dir string) error {
	for _, name := range recordedFiles() {
		parts, err := filepath.Glob(filepath.Join(dir, toldFolder, "*", name))
		if err != nil || len(parts) == 0 {
			continue
		}
		var lines []string
		for _, p := range parts {
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			for line := range bytes.Lines(text) {
				lines = append(lines, strings.TrimRight(string(line), "\n"))
			}
		}
		slices.SortStableFunc(lines, func(a, b string) int { return cmp.Compare(lineTime(a).UnixNano(), lineTime(b).UnixNano()) })
		lines = slices.Compact(lines)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(dir, toldFolder))
}

// lineTime is the time of an event's line.
func lineTime(line string) time.Time {
	var e struct{ Time time.Time }
	_ = json.Unmarshal([]byte(line), &e) // a line that is none comes first
	return e.Time
}

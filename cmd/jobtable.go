package cmd

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"mp/coordinator/web"
	"mp/job"
	"mp/mppb"
)

// What `mp jobs` prints, as JSON. Times are RFC 3339, times not yet known are left out.
type (
	jobInfo struct {
		ID              string          `json:"id"`
		State           string          `json:"state"` // queued, running, paused, draining, done, failed, cancelled
		Reason          string          `json:"reason,omitempty"`
		Directory       string          `json:"directory"`
		Update          uint64          `json:"update"`
		Updates         uint64          `json:"updates"` // of the whole job; 0: not known yet
		EpochsDone      uint32          `json:"epochs_done"`
		Epochs          int             `json:"epochs"`
		Workers         uint32          `json:"workers"`
		View            uint64          `json:"view"`
		ImagesPerSecond float64         `json:"images_per_second"`
		Submitted       *time.Time      `json:"submitted,omitempty"`
		Started         *time.Time      `json:"started,omitempty"`
		Ended           *time.Time      `json:"ended,omitempty"`
		Outcome         *outcomeInfo    `json:"outcome,omitempty"`
		Spec            json.RawMessage `json:"spec,omitempty"`

		spec job.Spec
	}
	outcomeInfo struct {
		BestTop1        float64 `json:"best_top1"` // per cent
		BestTop5        float64 `json:"best_top5"`
		BestEpoch       uint32  `json:"best_epoch"`
		Epochs          uint32  `json:"epochs"`
		Checkpoint      string  `json:"checkpoint"`
		SHA256          string  `json:"sha256"`
		OptimizerSHA256 string  `json:"optimizer_sha256"`
	}
	workerInfo struct {
		Worker          uint64    `json:"worker"`
		Name            string    `json:"name"`
		Host            string    `json:"host"`
		Device          string    `json:"device"`
		Address         string    `json:"address"`
		State           string    `json:"state"`
		Phase           string    `json:"phase"`
		View            uint64    `json:"view"`
		Update          uint64    `json:"update"`
		Shards          []uint32  `json:"shards"`
		ShardSeconds    float64   `json:"shard_seconds"`
		ImagesPerSecond float64   `json:"images_per_second"`
		ArrivalSkew     float64   `json:"arrival_skew"` // seconds the ring waits for it in a step
		MemoryBytes     uint64    `json:"memory_bytes"`
		Joined          time.Time `json:"joined"`
	}
	ledgerInfo     = web.Ledger
	checkpointInfo = web.Checkpoint
	eventInfo      struct {
		Sequence       uint64    `json:"sequence"`
		Time           time.Time `json:"time"`
		Topic          string    `json:"topic"`
		Text           string    `json:"text"`
		Advice         string    `json:"advice,omitempty"`
		Warning        bool      `json:"warning,omitempty"`
		DetectSeconds  float64   `json:"detect_seconds,omitempty"`
		RecoverSeconds float64   `json:"recover_seconds,omitempty"`
	}
	jobDetail struct {
		Job         jobInfo          `json:"job"`
		Workers     []workerInfo     `json:"workers"`
		Ledger      []ledgerInfo     `json:"ledger"`
		Checkpoints []checkpointInfo `json:"checkpoints"`
		Events      []eventInfo      `json:"events"`
	}
)

func newJobInfo(j *mppb.Job) jobInfo {
	i := jobInfo{
		ID: j.Id, State: strings.ToLower(j.State.String()), Reason: j.Reason, Directory: j.Directory, Update: j.Update, Updates: j.Updates,
		EpochsDone: j.EpochsDone, Workers: j.Workers, View: j.View, ImagesPerSecond: j.ImagesPerSecond,
		Submitted: moment(j.Submitted), Started: moment(j.Started), Ended: moment(j.Ended),
	}
	if json.Unmarshal(j.Spec, &i.spec) == nil {
		i.Spec, i.Epochs = j.Spec, i.spec.Epochs
	}
	if o := j.Outcome; o != nil {
		i.Outcome = &outcomeInfo{BestTop1: o.BestTop1, BestTop5: o.BestTop5, BestEpoch: o.BestEpoch, Epochs: o.Epochs, Checkpoint: o.Checkpoint,
			SHA256: o.Sha256, OptimizerSHA256: o.OptimizerSha256}
	}
	return i
}

// moment is nil for a time that has not come.
func moment(ns int64) *time.Time {
	if ns == 0 {
		return nil
	}
	t := time.Unix(0, ns)
	return &t
}

func newWorkerInfo(w *mppb.WorkerInfo) workerInfo {
	return workerInfo{
		Worker: w.Worker, Name: w.Name, Host: w.Host, Device: w.Device, Address: w.Address, State: w.State, Phase: strings.ToLower(w.Phase.String()),
		View: w.View, Update: w.Update, Shards: append([]uint32{}, w.Shards...), ShardSeconds: w.ShardSeconds, ImagesPerSecond: w.ImagesPerSecond,
		ArrivalSkew: w.ArrivalSkew, MemoryBytes: w.MemoryBytes, Joined: time.Unix(0, w.Joined),
	}
}

func newLedgerInfo(l *mppb.Ledger) ledgerInfo {
	i := ledgerInfo{
		Epoch: l.Epoch + 1, Images: l.Images, ExpectedImages: l.ExpectedImages, Missing: l.Missing, Repeated: l.Repeated,
		Hash: fmt.Sprintf("%016x", l.Hash), Whole: l.Whole,
		Proven: l.Whole && l.Missing == 0 && l.Repeated == 0 && l.Images == l.ExpectedImages && l.Hash == l.ExpectedHash,
	}
	if l.Whole { // before that nobody can say
		i.ExpectedHash = fmt.Sprintf("%016x", l.ExpectedHash)
	}
	return i
}

func newCheckpointInfo(c *mppb.Checkpoint) checkpointInfo {
	i := checkpointInfo{Name: c.Name, Update: c.Update, Time: time.Unix(0, c.Time), Best: c.Best, Whole: true}
	for _, f := range c.Files {
		i.Bytes += f.Size
		i.Whole = i.Whole && f.Whole
	}
	return i
}

func newEventInfo(e *mppb.Event) eventInfo {
	return eventInfo{Sequence: e.Sequence, Time: time.Unix(0, e.Time), Topic: e.Topic, Text: e.Text, Advice: e.Advice, Warning: e.Warning,
		DetectSeconds: e.DetectSeconds, RecoverSeconds: e.RecoverSeconds}
}

func newJobDetail(d *mppb.JobDetail) jobDetail {
	i := jobDetail{Job: newJobInfo(d.Job), Workers: []workerInfo{}, Ledger: []ledgerInfo{}, Checkpoints: []checkpointInfo{}, Events: []eventInfo{}}
	for _, w := range d.Workers {
		i.Workers = append(i.Workers, newWorkerInfo(w))
	}
	for _, l := range d.Ledger {
		of := newLedgerInfo(l)
		of.HeldOut = uint64(i.Job.spec.AdvWatchImages)
		i.Ledger = append(i.Ledger, of)
	}
	for _, c := range d.Checkpoints {
		i.Checkpoints = append(i.Checkpoints, newCheckpointInfo(c))
	}
	for _, e := range d.Events {
		i.Events = append(i.Events, newEventInfo(e))
	}
	return i
}

// writeJobs prints jobs as a table.
func writeJobs(out io.Writer, jobs []jobInfo) error {
	if len(jobs) == 0 {
		_, err := fmt.Fprintln(out, "no jobs; start one with `mp submit DATA`")
		return err
	}
	var rows [][]string
	for _, j := range jobs {
		best := ""
		if j.Outcome != nil {
			best = fmt.Sprintf("%.2f %%", j.Outcome.BestTop1)
		}
		rows = append(rows, []string{
			j.ID, j.State, j.Directory, progressText(j.Update, j.Updates), percentOf(j.Update, j.Updates), fmt.Sprintf("%d/%d", j.EpochsDone, j.Epochs),
			fmt.Sprint(j.Workers), figure(j.ImagesPerSecond), best, clock(j.Submitted), j.Reason,
		})
	}
	return writeTable(out, []string{"id", "state", "run", ">updates", ">", ">epochs", ">workers", ">images/s", ">best top-1", "submitted", "why"}, rows)
}

func progressText(done, all uint64) string {
	if all == 0 {
		return thousands(done)
	}
	return thousands(done) + "/" + thousands(all)
}

// clock prints a time of day, with the date when it is not today's.
func clock(t *time.Time) string {
	switch {
	case t == nil:
		return ""
	case t.Format(time.DateOnly) == time.Now().Format(time.DateOnly):
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// writeJobDetail prints one job with its workers, checkpoints and newest events and, where it is asked for, the ledger.
func writeJobDetail(out io.Writer, d jobDetail, withLedger bool) error {
	if err := writeJobs(out, []jobInfo{d.Job}); err != nil {
		return err
	}
	if o := d.Job.Outcome; o != nil {
		fmt.Fprintf(out, "\nbest      %.2f %% top-1, %.2f %% top-5 in epoch %d: %s\nsha256    %s\n", o.BestTop1, o.BestTop5, o.BestEpoch, o.Checkpoint, o.SHA256)
		if o.OptimizerSHA256 != "" {
			fmt.Fprintf(out, "optimizer %s\n", o.OptimizerSHA256)
		}
	}
	if len(d.Workers) > 0 {
		fmt.Fprintln(out, "\nWorkers")
		if err := writeWorkers(out, d.Workers); err != nil {
			return err
		}
	}
	if len(d.Checkpoints) > 0 {
		fmt.Fprintln(out, "\nCheckpoints")
		var rows [][]string
		for _, c := range d.Checkpoints {
			mark := ""
			if c.Best {
				mark = "best"
			}
			if !c.Whole {
				mark = strings.TrimSpace(mark + " arriving")
			}
			rows = append(rows, []string{c.Name, thousands(c.Update), fmt.Sprintf("%.1f MiB", float64(c.Bytes)/(1<<20)), clock(&c.Time), mark})
		}
		if err := writeTable(out, []string{"name", ">update", ">size", "time", ""}, rows); err != nil {
			return err
		}
	}
	if len(d.Events) > 0 && !withLedger {
		fmt.Fprintln(out, "\nStory")
		for _, e := range d.Events {
			fmt.Fprintln(out, eventLine(e))
		}
	}
	if withLedger {
		fmt.Fprintln(out, "\nLedger")
		return writeLedger(out, d.Ledger)
	}
	return nil
}

func writeWorkers(out io.Writer, workers []workerInfo) error {
	var rows [][]string
	for _, w := range workers {
		shards := make([]string, len(w.Shards))
		for i, s := range w.Shards {
			shards[i] = fmt.Sprint(s)
		}
		rows = append(rows, []string{
			fmt.Sprint(w.Worker), w.Name, w.State, w.Phase, thousands(w.Update), strings.Join(shards, ","), figure(w.ImagesPerSecond),
			milliseconds(w.ShardSeconds), milliseconds(w.ArrivalSkew), fmt.Sprintf("%d MiB", w.MemoryBytes>>20),
		})
	}
	return writeTable(out, []string{">id", "worker", "state", "phase", ">update", "shards", ">images/s", ">a shard", ">waited for", ">memory"}, rows)
}

func milliseconds(s float64) string {
	if s == 0 {
		return ""
	}
	return fmt.Sprintf("%.3g ms", 1000*s)
}

// writeLedger prints the proof of every epoch, and in the last line what follows from it.
func writeLedger(out io.Writer, ledger []ledgerInfo) error {
	var rows [][]string
	proven, whole, held := 0, 0, uint64(0)
	for _, l := range ledger {
		held = l.HeldOut
		verdict := "under way"
		switch {
		case l.Proven && held > 0:
			verdict = "every image once but those held out"
			proven++
			whole++
		case l.Proven:
			verdict = "every image once"
			proven++
			whole++
		case l.Whole:
			verdict = "NOT PROVEN"
			whole++
		}
		rows = append(rows, []string{fmt.Sprint(l.Epoch), thousands(l.Images), thousands(l.ExpectedImages), thousands(l.Missing), thousands(l.Repeated),
			l.Hash, cmp.Or(l.ExpectedHash, "-"), verdict})
	}
	if err := writeTable(out, []string{">epoch", ">images", ">expected", ">missing", ">repeated", "hash of ids", "expected hash", "proof"}, rows); err != nil {
		return err
	}
	note := ""
	if held > 0 {
		note = fmt.Sprintf("; %s held out of training for --adv-watch-images", count(int(held), "image is", "images are"))
	}
	_, err := fmt.Fprintf(out, "%d of %s proven%s\n", proven, count(whole, "whole epoch", "whole epochs"), note)
	return err
}

// eventLine is one aligned line of the cluster's story.
func eventLine(e eventInfo) string {
	text := fmt.Sprintf("%s  %-10s  %s", e.Time.Format(time.TimeOnly), e.Topic, e.Text)
	if e.Advice != "" {
		text += "\n" + strings.Repeat(" ", 22) + e.Advice
	}
	return text
}

package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mp/checkpoint"
	"mp/data"
	"mp/metrics"
	"mp/mppb"
)

// errNoDisk is wrapped where this process may not make file systems.
var errNoDisk = errors.New("small disks need root (CAP_SYS_ADMIN), which mounts them")

// smallBytes is the size of a small disk: some checkpoints of a small network fit.
const smallBytes = 64 << 20

// smallDisk makes a folder a file system of its own.
func (f *fleet) smallDisk(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("mp-drill", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d", smallBytes)); err != nil {
		return fmt.Errorf("mount %s: %w: %w", dir, err, errNoDisk)
	}
	f.disks = append(f.disks, dir)
	return nil
}

func (f *fleet) unmount() {
	for _, dir := range f.disks {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
	f.disks = nil
}

// fill takes all the space that is left on the first coordinator's small disk; free gives it back.
func (f *fleet) fill() (free func() error, err error) {
	filler, err := os.Create(filepath.Join(f.disks[0], "filler"))
	if err != nil {
		return nil, err
	}
	defer filler.Close()
	for room := make([]byte, 1<<16); len(room) > 0; {
		if _, err := filler.Write(room); errors.Is(err, syscall.ENOSPC) {
			room = room[:len(room)/2]
		} else if err != nil {
			return nil, err
		}
	}
	return func() error { return os.Remove(filler.Name()) }, nil
}

// drillLogDisk fills the disk under the raft log of the only coordinator.
func drillLogDisk(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	stood := r.now().GetUpdate()
	free, err := r.fill()
	if err != nil {
		return err
	}
	log := r.nodes[0].log
	if err := r.until(ctx, 20*time.Second, "the coordinator to say that its disk is full", func() bool { return saysFull(log) != "" }); err != nil {
		return errors.Join(err, free())
	}
	r.check(true, "the coordinator says", saysFull(log), "that there is no space")
	if err := rest(ctx, 3*r.failAfter); err != nil {
		return err
	}
	alive := len(r.running())
	r.check(alive == 2, "workers that live meanwhile", fmt.Sprint(alive), "2")
	at := time.Now()
	if err := free(); err != nil {
		return err
	}
	if err := r.untilUpdate(ctx, stood+10); err != nil {
		return err
	}
	r.within("with space again: the next recorded steps", time.Since(at), 10*time.Second)
	var full time.Duration
	_ = r.until(ctx, 10*time.Second, "the story to tell of it", func() bool {
		full = 0
		for _, e := range r.eventsSince(at, func(e *mppb.Event) bool { return strings.Contains(e.Text, "could not write its log") }) {
			_, length, _ := strings.Cut(e.Text, " for ")
			length, _, _ = strings.Cut(length, ":")
			d, _ := time.ParseDuration(length)
			full += d
		}
		return full > 0
	})
	r.check(full >= 3*r.failAfter, "the story tells of a full disk for", full.String(), "at least "+(3*r.failAfter).String())
	return nil
}

// saysFull is the last line of a log that tells of a full disk.
func saysFull(log string) string {
	full := ""
	for _, line := range lastLines(log, 50) {
		if strings.Contains(line, "no space left") {
			full = line
		}
	}
	return full
}

// drillCheckpointDisk fills the disk under the runs.
func drillCheckpointDisk(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	run := filepath.Join(r.disks[0], r.now().GetDirectory())
	newest := func() string { path, _, _ := checkpoint.Latest(run); return filepath.Base(path) }
	if err := r.until(ctx, 30*time.Second, "a checkpoint", func() bool { return newest() != "." }); err != nil {
		return err
	}
	free, err := r.fill()
	if err != nil {
		return err
	}
	at, stood := time.Now(), r.now().GetUpdate()
	if err := r.untilUpdate(ctx, stood+3*uint64(r.spec.CheckpointEvery)); err != nil {
		return errors.Join(err, free())
	}
	r.within("on a full disk: longest time without a step", r.longestPause(at), 2*time.Second)
	last, passedOver, err := checkpoint.Latest(run)
	r.check(err == nil && len(passedOver) == 0, "the newest checkpoint meanwhile", fmt.Sprintf("%s, %d broken", filepath.Base(last), len(passedOver)), "whole, 0 broken")
	if err := free(); err != nil {
		return err
	}
	if err := r.until(ctx, 30*time.Second, "a newer checkpoint", func() bool { return newest() > filepath.Base(last) }); err != nil {
		return err
	}
	r.check(true, "with space again: the newest checkpoint", newest(), "newer than "+filepath.Base(last))
	told := ""
	err = r.until(ctx, 20*time.Second, "the run's story to tell of it", func() bool {
		told = r.storyOf(filepath.Join(run, metrics.EventsFile), "could not be saved")
		return told != ""
	})
	r.check(err == nil && strings.Contains(told, "free space"), "the run's story", told, "says what could not be saved, and what to do")
	return nil
}

// storyOf is the first sentence with a word in a run's events.
func (r *rehearsal) storyOf(path, word string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	events, err := metrics.Read(f)
	if err != nil {
		return ""
	}
	for _, e := range events {
		if e.Story != nil && strings.Contains(e.Story.Text, word) {
			return e.Story.Text
		}
	}
	return ""
}

// drillHalfSaved kills the worker that writes while a checkpoint is half with the coordinator.
func drillHalfSaved(ctx context.Context, r *rehearsal) error {
	const workers, times = 2, 4
	if err := r.crew(ctx, workers); err != nil {
		return err
	}
	run := filepath.Join(r.dir, r.nodes[0].id, "runs", r.now().GetDirectory())
	whole := func() bool { path, _, _ := checkpoint.Latest(run); return path != "" }
	if err := r.until(ctx, 30*time.Second, "a checkpoint to go back to", whole); err != nil {
		return err
	}
	broken, halves := 0, 0
	for i := range times {
		since := time.Now()
		partial := func() bool { // a file of it has come since, or begun to
			half, _ := filepath.Glob(filepath.Join(run, "checkpoints", ".arriving-*"))
			return slices.ContainsFunc(half, func(path string) bool {
				info, err := os.Stat(path)
				return err == nil && info.ModTime().After(since)
			})
		}
		for !partial() && time.Since(since) < 20*time.Second && goesOn(r.now().GetState()) {
			time.Sleep(time.Millisecond) // a checkpoint takes some tens of them
		}
		if !partial() {
			break
		}
		halves++
		victim := r.workers[workerName(1+i%workers)] // the first in rank writes
		victim.signal(syscall.SIGKILL)
		<-victim.done
		if _, passedOver, err := checkpoint.Latest(run); err != nil || len(passedOver) > 0 {
			broken++
			fmt.Fprintf(r.out, "  %v %v\n", err, passedOver)
		}
		if _, err := r.startWorker(1 + i%workers); err != nil {
			return err
		}
		if err := r.untilWorkers(ctx, workers); err != nil {
			return err
		}
	}
	r.check(halves == times, "deaths while a checkpoint was half there", fmt.Sprint(halves), fmt.Sprint(times))
	r.check(broken == 0, "times that the newest checkpoint was not whole", fmt.Sprint(broken), "0")
	return nil
}

// drillPack gives a worker images of which one has a flipped bit.
func drillPack(ctx context.Context, r *rehearsal) error {
	spoiled := filepath.Join(r.dir, "images-2")
	if err := copyPacks(r.data, spoiled); err != nil {
		return err
	}
	if err := flipInFile(data.PackPath(spoiled, data.Train)); err != nil {
		return err
	}
	if _, err := r.startWorker(1); err != nil {
		return err
	}
	victim, err := r.startWorker(2, "--data", spoiled)
	if err != nil {
		return err
	}
	at := time.Now()
	if err := r.submit(ctx, r.spec); err != nil {
		return err
	}
	_, _, text, err := r.answered(ctx, at)
	if err != nil {
		return err
	}
	r.check(strings.Contains(text, "is damaged: record") && strings.Contains(text, "checksum"), "the root cause", text, "names pack, record and checksum")
	select {
	case <-victim.done:
	case <-time.After(10 * time.Second):
		return fmt.Errorf("%s is still there 10 s after its images were found damaged", victim.name)
	case <-ctx.Done():
		return ctx.Err()
	}
	r.check(victim.code == exitBadInput, "it ends with", victim.cause, fmt.Sprintf("exit status %d", exitBadInput))
	if _, err := r.startWorker(2); err != nil { // with the good images
		return err
	}
	return r.untilWorkers(ctx, 2)
}

// copyPacks copies the packs of a data set into another folder.
func copyPacks(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, split := range []data.Split{data.Train, data.Val} {
		found := false
		for _, folder := range packFolders(from) {
			path := data.PackPath(folder, split)
			if !exists(path) {
				continue
			}
			if err := copyFile(path, data.PackPath(to, split)); err != nil {
				return fmt.Errorf("copy pack %s: %w", path, err)
			}
			found = true
			break
		}
		if !found {
			return fmt.Errorf("copy packs: none of %s in %s", split, from)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// flipInFile changes one bit in the middle of a file: of a pack, in an image.
func flipInFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], info.Size()/2); err != nil {
		return err
	}
	b[0] ^= 4
	_, err = f.WriteAt(b[:], info.Size()/2)
	return err
}

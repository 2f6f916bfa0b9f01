package cmd

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"mp/checkpoint"
	"mp/data"
	"mp/devicecheck"
	"mp/job"
	"mp/ops"
	"mp/worker"
)

// computeChecks holds a device to the CPU, and ranks that share it to one that has it alone, and prints what came out.
func computeChecks(ctx context.Context, e *env, word, save string) error {
	word, err := pickDevice(word)
	if err != nil {
		return err
	}
	device, err := openDevice(word, 1)
	if err != nil {
		return err
	}
	defer device.Close()
	host, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: cores()})
	if err != nil {
		return err
	}
	defer host.Close()
	heard := func(r devicecheck.Row) {
		if e.verbose || !r.Good() {
			fmt.Fprintf(e.stderr, "%-40s %-32s %8.1e of %.1e  %s\n", r.Group, r.Name, r.Off, r.Limit, r.Trouble)
		}
	}
	var kept []checkpoint.Tensor
	keep := func(name string, shape []int64, values []float64) {
		narrow := make([]float32, len(values))
		for i, v := range values {
			narrow[i] = float32(v)
		}
		kept = append(kept, checkpoint.FromFloat32s(name, shape, narrow))
	}
	rows, failed := devicecheck.Run(ctx, devicecheck.Config{Device: device, Host: host, Heard: heard, Save: keep})
	if len(rows) == 0 {
		return failed
	}
	if save != "" {
		if err := checkpoint.Export(save, &checkpoint.State{Model: kept}); err != nil {
			return err
		}
	}
	if ranks, err := rankRow(ctx, word); err != nil {
		return err
	} else if rows = append(rows, ranks); !ranks.Good() {
		heard(ranks)
		failed = cmp.Or(failed, fmt.Errorf("%w: 1 and 2 ranks have other weights", devicecheck.ErrDiffers))
	}
	if e.json {
		if err := e.printJSON(struct {
			Device string            `json:"device"`
			Rows   []devicecheck.Row `json:"rows"`
		}{device.String(), rows}); err != nil {
			return err
		}
		return failed
	}
	if err := writeCompute(e.stdout, rows); err != nil {
		return err
	}
	return failed
}

// writeCompute prints a line a group.
func writeCompute(out io.Writer, rows []devicecheck.Row) error {
	var table [][]string
	for len(rows) > 0 {
		group := rows[0].Group
		n, bad, worst, seconds := 0, 0, rows[0], 0.0
		rest := rows[:0:0]
		for _, r := range rows {
			if r.Group != group {
				rest = append(rest, r)
				continue
			}
			n++
			seconds += r.Seconds
			if !r.Good() {
				bad++
			}
			if worst.Good() && (!r.Good() || r.Off > worst.Off) {
				worst = r
			}
		}
		verdict := "ok"
		if bad > 0 {
			verdict = fmt.Sprintf("%d differ", bad)
		}
		limit := "same bits"
		if worst.Limit > 0 {
			limit = fmt.Sprintf("%.0e", worst.Limit)
		}
		table = append(table, []string{group, fmt.Sprint(n), fmt.Sprintf("%.1e", worst.Off), limit, worst.Name, fmt.Sprintf("%.1f", seconds), verdict})
		rows = rest
	}
	return writeTable(out, []string{"what", ">things", ">furthest", ">allowed", "of", ">seconds", "verdict"}, table)
}

// rankRow trains with one rank and with two that share the device, and says whether the weights are the same bits.
func rankRow(ctx context.Context, word string) (devicecheck.Row, error) {
	row := devicecheck.Row{Group: "same bits by 1 and 2 ranks", Name: "scenenet, 3 steps"}
	dir, err := os.MkdirTemp("", "mp-doctor-")
	if err != nil {
		return row, fmt.Errorf("make a folder for images: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := data.Synth(ctx, data.SynthConfig{Dir: dir, Classes: 4, Train: 48, Val: 4, Seed: 1}); err != nil {
		return row, err
	}
	root, err := data.OpenRoot(dir)
	if err != nil {
		return row, err
	}
	var packs [2]*data.Pack
	for i, split := range []data.Split{data.Train, data.Val} {
		path := data.PackPath(dir, split)
		if err := data.WritePack(ctx, data.PackConfig{Root: root, Split: split, Path: path, Decoder: decoder{}}); err != nil {
			return row, err
		}
		if packs[i], err = data.OpenPack(path); err != nil {
			return row, err
		}
		defer packs[i].Close()
	}
	var sums []string
	for size := 1; size <= 2; size++ {
		sum, err := rankWeights(ctx, word, filepath.Join(dir, strconv.Itoa(size)), size, packs)
		if err != nil {
			row.Trouble = err.Error()
			return row, ctx.Err()
		}
		sums = append(sums, sum...)
	}
	if slices.Sort(sums); sums[0] != sums[len(sums)-1] {
		row.Off = 1
	}
	return row, nil
}

// rankWeights are the SHA-256 of the weights that each of several ranks on one device has after three steps.
func rankWeights(ctx context.Context, word, dir string, size int, packs [2]*data.Pack) ([]string, error) {
	spec, err := job.Default(job.Spec{Model: job.ModelSceneNet})
	if err != nil {
		return nil, err
	}
	spec.Data, spec.BatchSize, spec.Shards, spec.Threads, spec.Epochs, spec.Warmup, spec.ImageSize, spec.Pictures = dir, 16, 2, 1, 1, 0, "64", false
	ranks, addresses := make([]*worker.Stepper, size), make([]string, size)
	for i := range ranks {
		device, err := openDevice(word, 1)
		if err != nil {
			return nil, err
		}
		defer device.Close()
		scratch := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(scratch, 0o700); err != nil {
			return nil, err
		}
		if ranks[i], err = worker.NewStepper(ctx, worker.StepperConfig{Spec: spec, Train: packs[0], Val: packs[1], Device: device, Scratch: scratch, Rank: i, Size: size}); err != nil {
			return nil, err
		}
		defer ranks[i].Close()
		addresses[i] = ranks[i].Address()
	}
	sums, errs := make([]string, size), make([]error, size)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	for i, r := range ranks {
		all.Go(func() {
			if sums[i], errs[i] = threeSteps(ctx, r, addresses); errs[i] != nil {
				cancel() // the others would wait for it
			}
		})
	}
	all.Wait()
	return sums, cmp.Or(errs...)
}

func threeSteps(ctx context.Context, r *worker.Stepper, addresses []string) (string, error) {
	if err := r.Join(ctx, addresses); err != nil {
		return "", err
	}
	for range 3 {
		if _, err := r.Step(ctx); err != nil {
			return "", err
		}
	}
	if _, err := r.Agree(ctx, 0); err != nil { // so that nobody leaves too early
		return "", err
	}
	return r.Digest()
}

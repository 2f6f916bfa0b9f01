package job

import (
	"fmt"
	"strconv"
	"strings"
)

// Layer shapes, memory and rates that only the owners of models and schedules know; the dry run shows them.
type (
	// LayerFact is one layer of the model: its name in the state dict, what it does, the shape of its output for one batch,
	// its parameters, and the multiply-adds of its forward pass over that batch.
	LayerFact struct {
		Name       string `json:"name"`
		Kind       string `json:"kind"`
		Output     []int  `json:"output"`
		Parameters int64  `json:"parameters"`
		MACs       int64  `json:"macs"`
	}
	// MemoryFact is one part of the memory estimate.
	MemoryFact struct {
		What  string `json:"what"`
		Bytes int64  `json:"bytes"`
	}
	// RateFact is the learning rate and the image's side before an epoch's first update.
	RateFact struct {
		Epoch int     `json:"epoch"` // from 1, as printed while training
		Step  int     `json:"step"`  // steps done before, in the whole run
		Rate  float64 `json:"rate"`
		Size  int     `json:"size"` // pixels
	}
	// Facts is everything that a dry run shows beside the configuration.
	Facts struct {
		TrainImages   int          `json:"train_images"` // without those held out
		HeldOut       int          `json:"held_out"`     // training images that the watchdog attacks after each epoch
		ValImages     int          `json:"val_images"`
		StepsPerEpoch int          `json:"steps_per_epoch"`
		Layers        []LayerFact  `json:"layers"`
		Parameters    int64        `json:"parameters"`
		Memory        []MemoryFact `json:"memory"`
		Rates         []RateFact   `json:"rates"`
	}
)

// DryRun prints what a run would be: its configuration, the model layer by layer, memory, and the schedule.
func (s Spec) DryRun(f Facts, width int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Configuration\n%s\n", s.Table(width))

	rows := [][]string{{"layer", "kind", "output", "parameters", "multiply-adds"}}
	var macs int64
	for _, l := range f.Layers {
		rows = append(rows, []string{l.Name, l.Kind, shape(l.Output), count(l.Parameters), millions(l.MACs)})
		macs += l.MACs
	}
	rows = append(rows, []string{"total", "", "", count(f.Parameters), millions(macs)})
	fmt.Fprintf(&b, "Model %s\n%s\n", s.Model, align(rows, false, false, false, true, true))

	rows = nil
	var total int64
	for _, m := range f.Memory {
		rows = append(rows, []string{m.What, mebibytes(m.Bytes)})
		total += m.Bytes
	}
	rows = append(rows, []string{"total", mebibytes(total)})
	fmt.Fprintf(&b, "Memory, estimated\n%s\n", align(rows, false, true))

	rows = [][]string{{"epoch", "step", "learning rate", "image"}}
	for _, r := range f.Rates {
		rows = append(rows, []string{strconv.Itoa(r.Epoch), count(int64(r.Step)), fmt.Sprintf("%.3g", r.Rate), strconv.Itoa(r.Size)})
	}
	fmt.Fprintf(&b, "Schedule: %d epochs of %s steps", s.Epochs, count(int64(f.StepsPerEpoch)))
	if n := s.Replays(); n > 1 {
		fmt.Fprintf(&b, " with %d updates each", n)
	}
	fmt.Fprintf(&b, "; %s images train, ", count(int64(f.TrainImages)))
	if f.HeldOut > 0 {
		fmt.Fprintf(&b, "%s are held out and attacked after each epoch, ", count(int64(f.HeldOut)))
	}
	fmt.Fprintf(&b, "%s validate\n%s", count(int64(f.ValImages)), align(rows, true, true, true, true))
	return b.String()
}

// shape prints dimensions as 128x64x32x32.
func shape(dims []int) string {
	var words []string
	for _, d := range dims {
		words = append(words, strconv.Itoa(d))
	}
	return strings.Join(words, "x")
}

// count prints a whole number with commas between thousands.
func count(n int64) string {
	if n < 0 {
		return "-" + count(-n)
	}
	if n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%s,%03d", count(n/1000), n%1000)
}

// millions prints multiply-adds; layers without any show nothing.
func millions(n int64) string {
	if n == 0 {
		return ""
	}
	return count((n+500_000)/1_000_000) + " M"
}

func mebibytes(n int64) string { return fmt.Sprintf("%s MiB", count((n+1<<19)>>20)) }

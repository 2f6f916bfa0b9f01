package tensorboard

import (
	"fmt"

	"mp/metrics"
)

// Runs of TensorBoard, beside each other in a run's directory: curves of one tag lie over one another.
const (
	train = "train"
	val   = "val"
)

// entry is what an event says in one of the runs. Its place on the axis is the update, also where it is told once an epoch.
type entry struct {
	run    string
	update int
	series string // events of one series are of ever later updates, until the run goes on from an earlier one; empty: of none
	values []value
}

// tellsTheTime says whether an event of this series at an update that was told before means that the run has gone back.
func (e entry) tellsTheTime() bool { return e.series == "step" || e.series == "validation" }

// entries is what an event says. The tags of the first block are the reference's.
func (s *Sink) entries(e metrics.Event) ([]entry, error) {
	switch {
	case e.Step != nil:
		out := []value{
			scalar("data/training_loss", float64(e.Step.Loss)), scalar("data/learning_rate", e.Step.LearningRate),
			scalar("speed/images_per_second", e.Step.ImagesPerSecond), scalar("speed/data_wait", e.Step.DataWait), scalar("speed/memory_bytes", float64(e.Step.MemoryBytes)),
		}
		if e.Step.GradientNorm != 0 { // it is measured
			out = append(out, scalar("data/gradient_norm", float64(e.Step.GradientNorm)))
		}
		return []entry{{train, e.Step.Update, "step", out}}, nil
	case e.Epoch != nil:
		out := []value{
			scalar("data/top1_accuracy", e.Epoch.Top1), scalar("data/top5_accuracy", e.Epoch.Top5), scalar("data/loss", float64(e.Epoch.Loss)),
			scalar("speed/epoch_seconds", e.Epoch.Seconds), scalar("speed/epoch_images_per_second", e.Epoch.ImagesPerSecond),
		}
		if g := s.account.Report(); g.StepSeconds > 0 { // it is known
			out = append(out, scalar("cluster/goodput", g.Share), scalar("cluster/faults", float64(g.Faults)))
		}
		return []entry{{train, e.Epoch.Update, "epoch", out}}, nil
	case e.Validation != nil:
		v := e.Validation
		out := []value{
			scalar("data/top1_accuracy", v.Top1), scalar("data/top5_accuracy", v.Top5), scalar("data/loss", float64(v.Loss)),
			scalar("speed/epoch_seconds", v.Seconds), scalar("speed/epoch_images_per_second", v.ImagesPerSecond),
		}
		if r := v.Robust; r != nil {
			out = append(out, scalar("data/robust_top1_accuracy", r.Top1), scalar("data/robust_top5_accuracy", r.Top5), scalar("data/robust_loss", float64(r.Loss)))
			if r.CleanTop1 != nil {
				out = append(out, scalar("data/held_out_top1_accuracy", *r.CleanTop1))
			}
		}
		return []entry{{val, v.Update, "validation", out}}, nil
	case e.Worker != nil:
		w := e.Worker
		name := w.Name
		if name == "" {
			name = fmt.Sprintf("worker %d", w.Worker)
		}
		out := []value{
			scalar("memory_bytes/"+name, float64(w.MemoryBytes)), scalar("arrival_skew_seconds/"+name, w.ArrivalSkew), scalar("worker_images_per_second/"+name, w.ImagesPerSecond),
			scalar("shard_seconds/"+name, w.ShardSeconds), scalar("reduce_seconds/"+name, w.ReduceSeconds), scalar("reduce_hidden/"+name, w.ReduceHidden),
		}
		if g := w.GPU; g != nil {
			out = append(out, scalar("gpu_memory_used_bytes/"+name, float64(g.UsedBytes)))
			if g.Busy != nil {
				out = append(out, scalar("gpu_busy/"+name, *g.Busy))
			}
		}
		return []entry{{train, w.Update, fmt.Sprintf("worker-%d", w.Worker), out}}, nil
	case e.View != nil:
		var out []value
		if n := len(e.View.Members); n > 0 {
			out = append(out, scalar("cluster/workers", float64(n)))
		}
		if v := e.View.DetectSeconds; v > 0 {
			out = append(out, scalar("cluster/detect_seconds", v))
		}
		if v := e.View.RecoverSeconds; v > 0 {
			out = append(out, scalar("cluster/recover_seconds", v))
		}
		return []entry{{train, e.View.Update, "", out}}, nil
	case e.Picture != nil:
		v, err := picture(e.Picture.Tag, e.Picture.PNG)
		return []entry{{train, e.Picture.Update, "picture-" + e.Picture.Tag, []value{v}}}, err
	case e.Histograms != nil:
		var out []value
		for _, h := range e.Histograms.Weights {
			out = append(out, histogram("weights/"+h.Name, h))
		}
		for _, h := range e.Histograms.Gradients {
			out = append(out, histogram("gradients/"+h.Name, h))
		}
		return []entry{{train, e.Histograms.Update, "histograms", out}}, nil
	}
	return nil, nil
}

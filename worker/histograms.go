package worker

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"mp/metrics"
	"mp/ops"
)

// histograms tells how weights and gradients are distributed, every so many epochs where the job asks for it. What fails is
// told and stops nothing.
func (v *visit) histograms(ctx context.Context) {
	r := v.replica
	if every := r.spec.Histograms; every == 0 || r.at.Validated%every != 0 {
		return
	}
	h := metrics.Histograms{Epoch: r.at.Validated, Update: r.at.Done}
	var err error
	if h.Weights, err = r.weights(ctx); err != nil {
		if ctx.Err() == nil {
			v.emit(metrics.Event{Kind: metrics.KindStory, Story: &metrics.Story{Topic: "histograms", Warning: true,
				Text: fmt.Sprintf("no histograms of epoch %d: %v", r.at.Validated, err), Advice: "training goes on; --histograms 0 leaves them out"}})
		}
		return
	}
	if v.pace.whole.images > 0 { // the sum of the last update was made here
		for _, p := range r.model.Params.Params() {
			at, n := r.model.Params.Span(p)
			h.Gradients = append(h.Gradients, metrics.NewHistogram(p.Name, r.sum.host[at:at+n]))
		}
	}
	v.emit(metrics.Event{Kind: metrics.KindHistograms, Histograms: &h})
}

// weights are those that training goes on with, not their running average.
func (r *replica) weights(ctx context.Context) ([]metrics.Histogram, error) {
	var out []metrics.Histogram
	err := r.device.Do(ctx, func(*ops.Scope) error {
		for _, p := range r.model.Params.Params() {
			bytes, err := r.model.Params.ReadParam(p)
			if err != nil {
				return err
			}
			values := make([]float32, len(bytes)/4)
			for i := range values {
				values[i] = math.Float32frombits(binary.LittleEndian.Uint32(bytes[4*i:]))
			}
			out = append(out, metrics.NewHistogram(p.Name, values))
		}
		return nil
	})
	return out, err
}

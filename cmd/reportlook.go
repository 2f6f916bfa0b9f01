package cmd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"mp/explain"
	"mp/job"
	"mp/ops/pixel"
	"mp/report"
)

// look finds where the network looks in the first images.
func (a asked) look(ctx context.Context, e *env, source report.Source) error {
	const pixels = pixel.Side * pixel.Side
	o := explainOptions{
		checkpoint: a.run, methods: []string{"saliency", "gradcam"}, config: explain.DefaultConfig(), batch: shownSaliency, precision: job.FP32,
		device: a.options.device, threads: a.options.threads,
	}
	x, err := newExplainer(ctx, o, len(a.pack.Classes()))
	if err != nil {
		return err
	}
	defer x.close()
	bar := e.progress("explain "+filepath.Base(a.run), int64(source.Images)*x.passes())
	x.progress = bar.Add
	found := report.Saliency{Source: source, Methods: o.methods, Classes: a.pack.Classes()}
	unreadable, err := x.each(ctx, packPictures{a.pack}, source.Images, func(b *pictures, seen []sighting) error {
		for i, id := range b.ids {
			s := seen[0]
			m := report.SaliencyImage{Name: b.source.Name(id), True: b.source.Label(id), Said: int(s.labels[i]), Sure: s.sure[i]}
			var err error
			if m.File, err = a.picture(fmt.Sprintf("look-%02d.jpg", id+1), b.record(i)); err != nil {
				return err
			}
			for _, f := range s.maps {
				over := explain.Red
				if f.coarse {
					over = explain.Blend
				}
				name, err := a.picture(fmt.Sprintf("look-%02d-%s.jpg", id+1, f.method), over(b.record(i), f.values[i*pixels:(i+1)*pixels]))
				if err != nil {
					return err
				}
				m.Maps = append(m.Maps, name)
			}
			found.Images = append(found.Images, m)
		}
		return nil
	})
	bar.Finish()
	if err != nil {
		return err
	}
	if len(found.Images) == 0 {
		return errors.Join(unreadable...)
	}
	return a.write(report.SaliencyFile, found)
}

package cmd

import (
	"context"
	"fmt"
	"log/slog"

	"mp/data"
	"mp/mppb"
	"mp/ops"
	"mp/trust"
	"mp/worker"
	"mp/worker/errand"
)

// loneHands are one device of this machine.
type loneHands struct {
	device   *ops.Device
	networks errand.Networks
}

func newLoneHands(ctx context.Context, o attackFlags, source pictureSource) (*loneHands, error) {
	word, err := pickDevice(o.device)
	if err != nil {
		return nil, err
	}
	h := &loneHands{networks: errand.Networks{Precision: o.precision}}
	if h.device, err = openDevice(word, o.intraOp()); err != nil {
		return nil, err
	}
	classes := len(source.Classes())
	err = h.device.Do(ctx, func(s *ops.Scope) error {
		for _, path := range o.networks() {
			m, err := worker.LoadModel(s, path, o.model, errand.ModelOptions(classes, o.precision))
			if err != nil {
				return misfit(err, classes)
			}
			h.networks.Models = append(h.networks.Models, m)
		}
		return nil
	})
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// misfit says how many classes a network should have had.
func misfit(err error, classes int) error {
	return fmt.Errorf("%w (the images are of %d classes)", err, classes)
}

// networks are the files of the network that is measured and, where it is another, of the one that is attacked.
func (o *attackFlags) networks() []string {
	if o.surrogate == "" {
		return []string{o.checkpoint}
	}
	return []string{o.checkpoint, o.surrogate}
}

// intraOp is the number of threads that an operation uses: part of the numbers.
func (o *attackFlags) intraOp() int {
	if o.threads == 0 {
		return cores()
	}
	return o.threads
}

func (h *loneHands) close() {
	_ = h.device.Do(context.Background(), func(*ops.Scope) error { // the process ends: nothing is lost
		h.networks.Free()
		return nil
	})
	h.device.Close()
}

func (h *loneHands) attack(ctx context.Context, r *attackRun, plans []plan, sets []*attackedSet) error {
	for b := range r.batches(len(plans)) {
		for i, p := range plans {
			var found errand.Found
			err := h.device.Do(ctx, func(s *ops.Scope) (err error) {
				found, err = h.networks.Attack(ctx, s, r.order(p), b, r.want(sets[i]))
				return err
			})
			if err != nil {
				return r.failed(p, b.IDs, err)
			}
			r.add(sets[i], b, found)
			r.progress(len(b.IDs))
		}
	}
	return nil
}

// manyHands are a cluster's workers.
type manyHands struct {
	client *mppb.Client
	crowd  *errand.Crowd
	pack   *data.Pack
	own    bool   // the pack was opened for this
	stop   func() // ends the renewal of a certificate; nil: not begun
}

// newManyHands prepares what workers are handed. Images that were not packed yet are: workers know images by their pack.
func newManyHands(ctx context.Context, e *env, r *attackRun, dir string) (_ *manyHands, err error) {
	o, h := &r.flags, &manyHands{}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if p, ok := r.source.(packPictures); ok {
		h.pack = p.Pack
	} else if h.pack, err = openPack(ctx, e, dir, data.Split(o.split)); err != nil {
		return nil, fmt.Errorf("a cluster attacks images of a pack: %w", err)
	} else {
		h.own, r.source = true, packPictures{h.pack}
	}
	c := errand.CrowdConfig{Version: version(), Pack: h.pack, Precision: o.precision, Threads: o.intraOp(), Wait: o.cluster.wait, Logger: e.logger(slog.LevelWarn)}
	for _, path := range o.networks() {
		n, err := worker.ReadNetwork(path, o.model)
		if err != nil {
			return nil, err
		}
		c.Networks = append(c.Networks, n)
	}
	who, err := o.cluster.identity(ctx, trust.Client, trust.Viewer)
	if err != nil {
		return nil, err
	}
	h.stop = renewed(who, c.Logger)
	if h.client, err = o.cluster.clientOf(who); err != nil {
		return nil, err
	}
	c.Client, c.Token, c.Dial = h.client, o.cluster.trust.secret(who), towards(who, trust.Worker)
	h.crowd, err = errand.NewCrowd(c)
	return h, err
}

func (h *manyHands) close() {
	if h.stop != nil {
		h.stop()
	}
	if h.client != nil {
		h.client.Close()
	}
	if h.own {
		h.pack.Close()
	}
}

func (h *manyHands) attack(ctx context.Context, r *attackRun, plans []plan, sets []*attackedSet) error {
	var batches []errand.Batch
	for b := range r.batches(len(plans)) {
		b.Records = nil // the workers have them
		batches = append(batches, b)
	}
	n := len(plans)
	err := h.crowd.Run(ctx, errand.Task{
		Parts: len(batches) * n,
		Part: func(i int) errand.Part {
			return errand.Part{Order: r.order(plans[i%n]), IDs: batches[i/n].IDs, Pictures: r.want(sets[i%n])}
		},
		Came: func(i int) { r.progress(len(batches[i/n].IDs)) },
		Take: func(i int, f errand.Found) error {
			b, set := batches[i/n], sets[i%n]
			if set.keeps && r.flags.save != "" {
				for _, id := range b.IDs {
					record, err := r.source.Read(int(id))
					if err != nil {
						return err
					}
					b.Records = append(b.Records, record...)
				}
			}
			r.add(set, b, f)
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("attack on the cluster at %s: %w", r.flags.cluster.coordinator, err)
	}
	return nil
}

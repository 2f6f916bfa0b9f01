package testcluster

import (
	"context"
	"reflect"
	"testing"
	"time"

	"mp/attack"
	"mp/job"
	"mp/model"
	"mp/mppb"
	"mp/ops"
	"mp/worker/errand"
)

// A job beside which errands run ends as one that has the cluster for itself, and the errands find what they find elsewhere.
func TestErrandsBesideTrainingChangeNoBit(t *testing.T) {
	s := Spec(t, job.ModelSimpleNet, 3)
	want := alone(t, s)
	k := New(t, Config{MinWorkers: 2})
	k.Start("1")
	k.Start("2")
	k.Workers(2)
	crowd, err := errand.NewCrowd(errand.CrowdConfig{
		Client: k.Client(), Version: "test", Pack: k.Val(), Networks: []errand.Network{untrained(t)}, Precision: job.FP32, Threads: 1, Wait: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	options, err := attack.Defaults("bim")
	if err != nil {
		t.Fatal(err)
	}
	options.Steps, options.Leave = 3, false
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	attacked := func() []errand.Found {
		var out []errand.Found
		err := crowd.Run(ctx, errand.Task{
			Parts: 4, Came: func(int) {},
			Part: func(i int) errand.Part {
				return errand.Part{Order: errand.Order{Attack: "bim", Options: options}, IDs: []int32{int32(2 * i), int32(2*i + 1)}}
			},
			Take: func(_ int, f errand.Found) error {
				f.Seconds = 0
				out = append(out, f)
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	idle := attacked()
	id := k.Submit(s)
	k.Until(id, "some updates", func(d *mppb.JobDetail) bool { return d.Job.Update >= 1 })
	beside := 0
	for goesOn(k.Show(id)) {
		if got := attacked(); !reflect.DeepEqual(got, idle) {
			t.Fatal("beside training the errand finds something else")
		}
		beside++
	}
	SameBits(t, "with errands beside it", k.Finish(id), want)
	if text := k.Story(id); beside == 0 {
		t.Errorf("no errand ran beside the job:\n%s", text)
	}
}

func untrained(t *testing.T) errand.Network {
	t.Helper()
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	n := errand.Network{Arch: job.ModelSceneNet, Arrays: map[string]model.Array{}}
	err = d.Do(t.Context(), func(s *ops.Scope) error {
		m, err := model.New(s, n.Arch, model.Options{Classes: 4, Seed: 3})
		if err != nil {
			return err
		}
		defer m.Free()
		for _, flat := range []*ops.Flat{m.Params, m.Buffers} {
			for _, p := range flat.Params() {
				v, err := flat.ReadParam(p)
				if err != nil {
					return err
				}
				n.Arrays[p.Name] = model.Array{Shape: p.Shape, Data: v}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

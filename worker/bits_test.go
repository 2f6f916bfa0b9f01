package worker

import (
	"fmt"
	"testing"

	"mp/job"
)

// want is what a lone worker makes of a job.
func want(t *testing.T, s job.Spec, p packPair) Result {
	t.Helper()
	r, err := train(t, s, t.TempDir(), p, 0)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// check compares a crew's outcome with a lone worker's.
func (c *crew) check(w Result) {
	c.t.Helper()
	o := c.outcome()
	if o.Sha256 != w.SHA256 || o.OptimizerSha256 != w.OptimizerSHA256 {
		c.t.Errorf("weights %.8s, optimizer %.8s; a lone worker has %.8s, %.8s; views: %v", o.Sha256, o.OptimizerSha256, w.SHA256, w.OptimizerSHA256, c.views)
	}
	if o.BestTop1 != w.Best.Top1 || o.BestTop5 != w.Best.Top5 || int(o.BestEpoch) != w.BestEpoch {
		c.t.Errorf("best is %g/%g of epoch %d, a lone worker's %g/%g of epoch %d", o.BestTop1, o.BestTop5, o.BestEpoch, w.Best.Top1, w.Best.Top5, w.BestEpoch)
	}
}

func TestAnyNumberOfWorkersEndsWithTheSameBits(t *testing.T) {
	t.Parallel()
	p := packs(t)
	for _, c := range []struct {
		model   string
		workers []int
	}{
		{job.ModelSimpleNet, []int{2, 3, 4}},
		{job.ModelSceneNet, []int{3}},
		{job.ModelSimpleViT, []int{3}},
	} {
		s := short(t, c.model, 4)
		s.Epochs = 1
		if c.model != job.ModelSimpleViT {
			s.ImageSize = "48" // scenenet cannot normalise one image of 32 pixels
		}
		w := want(t, s, p)
		for _, n := range c.workers {
			t.Run(fmt.Sprintf("%s by %d", c.model, n), func(t *testing.T) {
				c := newCrew(t, s, p)
				for range n {
					c.hire(nil)
				}
				c.join()
				c.check(w)
			})
		}
	}
}

// Vectors that are the device's alone, as on a GPU, beside one whose vectors are in this memory: the same bits.
func TestVectorsOnTheDeviceEndWithTheSameBits(t *testing.T) {
	t.Parallel()
	p := packs(t)
	for _, model := range []string{job.ModelSceneNet, job.ModelSimpleNet} {
		s := short(t, model, 4)
		s.Epochs, s.ImageSize = 1, "48"
		c := newCrew(t, s, p)
		c.hire(nil)
		c.onGPU = true
		c.hire(nil)
		c.hire(nil)
		c.join()
		c.check(want(t, s, p))
	}
}

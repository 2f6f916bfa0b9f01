//go:build long

package testcluster

import (
	"testing"

	"mp/job"
)

// Every network by one to four workers: dropout and drop-path, batch norm, clipping, both optimizers. Minutes: make drills.
func TestEveryNetworkByAnyNumberOfWorkers(t *testing.T) {
	for _, model := range []string{job.ModelSimpleNet, job.ModelSceneNet, job.ModelSimpleViT, job.ModelResNet18} {
		t.Run(model, func(t *testing.T) { sameBitsBy(t, model, 2, 3, 4) })
	}
}

// What the quick tests do to SceneNet, done to the others.
func TestFaultsWithEveryNetwork(t *testing.T) {
	for _, model := range []string{job.ModelSimpleNet, job.ModelSimpleViT} {
		for _, c := range []struct {
			name string
			run  func(*testing.T, string)
		}{{"workers come and go", comeAndGo}, {"the leader dies", leaderDies}, {"everything is started again", everythingAgain}} {
			t.Run(model+", "+c.name, func(t *testing.T) { c.run(t, model) })
		}
	}
}

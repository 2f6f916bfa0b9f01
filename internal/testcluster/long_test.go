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

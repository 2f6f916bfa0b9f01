package inproc

import (
	"testing"

	"mp/allreduce/allreducetest"
)

func TestConformance(t *testing.T) { allreducetest.Run(t, New) }

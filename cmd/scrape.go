package cmd

import (
	"errors"

	"mp/metrics"
	"mp/metrics/prometheus"
	"mp/worker"
)

// workerPages are the numbers of a worker's process, those of its node once there is one.
type workerPages struct {
	node    *worker.Node
	numbers *prometheus.Registry
}

func newWorkerPages() *workerPages {
	p := &workerPages{}
	p.numbers = prometheus.New(version(), prometheus.Source{Worker: func() metrics.WorkerFacts { return p.node.Facts() }})
	return p
}

// sinks shows the events of a worker beside handing them to where they go.
func (p *workerPages) sinks(to func(url, job string, worker uint64) (metrics.Sink, error)) func(url, job string, worker uint64) (metrics.Sink, error) {
	return func(url, job string, worker uint64) (metrics.Sink, error) {
		shown := p.numbers.Sink(job)
		sink, err := to(url, job, worker)
		if err != nil {
			return nil, errors.Join(err, metrics.Tee{shown}.Close())
		}
		return metrics.Tee{shown, sink}, nil
	}
}

// Package prometheus shows the numbers of a coordinator or a worker to whoever scrapes it. It owns their names, labels and
// units; it must never import another package of the module than metrics, nor decide anything: it shows what events and facts
// say. Start reading at Registry; run.go says which event sets which number, facts.go what is asked at each scrape.
//
// Names begin with mp_ and end with their unit; shares are from 0 to 1. Deploy/grafana has a dashboard of them.
package prometheus

import (
	"runtime"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"mp/metrics"
)

// Registry holds the numbers of one process. Safe for concurrent use.
type Registry struct {
	*client.Registry
	run runNumbers
}

// Source says what is asked at each scrape. Exactly one of its functions is set.
type Source struct {
	Cluster func() metrics.ClusterFacts // of a coordinator
	Worker  func() metrics.WorkerFacts  // of a worker
}

// New returns the numbers of a process of this version.
func New(version string, s Source) *Registry {
	r := &Registry{Registry: client.NewRegistry(), run: newRunNumbers()}
	build := client.NewGaugeVec(client.GaugeOpts{Name: "mp_build_info", Help: "1, labelled with the version of mp and of Go."}, []string{"version", "go"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, c := range r.run.all() {
		r.MustRegister(c)
	}
	if s.Cluster != nil {
		r.MustRegister(clusterFacts{s.Cluster})
	}
	if s.Worker != nil {
		r.MustRegister(workerFacts{s.Worker})
	}
	return r
}

package prometheus

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrapeWithin bounds an answer, which takes milliseconds.
const scrapeWithin = 10 * time.Second

// Handler answers scrapes. Safe for concurrent use.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.Registry, promhttp.HandlerOpts{Timeout: scrapeWithin, EnableOpenMetrics: true})
}

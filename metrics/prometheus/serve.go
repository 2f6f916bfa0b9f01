package prometheus

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// How scrapes are answered: more at once than there are scrapers means that some do not read their answers.
const (
	scrapesAtOnce = 8
	scrapeWithin  = 10 * time.Second
)

// Handler answers scrapes. Safe for concurrent use.
func (r *Registry) Handler() http.Handler {
	return promhttp.HandlerFor(r.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: scrapesAtOnce, Timeout: scrapeWithin, EnableOpenMetrics: true})
}

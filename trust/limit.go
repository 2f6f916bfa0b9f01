package trust

import (
	"sync"
	"time"
)

// What one address may ask of a Desk: a machine's workers at once, and then as many a second.
const (
	joinBurst     = 64
	joinPerSecond = 16
	mostAddresses = 4096 // that are remembered; the others share
)

// limiter bounds how often an address joins.
type limiter struct {
	now func() time.Time

	mu    sync.Mutex
	hosts map[string]*bucket
	swept time.Time // when addresses were last forgotten
}

type bucket struct {
	left float64
	last time.Time
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, hosts: map[string]*bucket{}}
}

// allow takes one from an address's share, if any is left.
func (l *limiter) allow(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.hosts[host] == nil && len(l.hosts) >= mostAddresses && now.Sub(l.swept).Abs() >= time.Second {
		l.swept = now
		for h, b := range l.hosts { // whoever has been quiet for long enough is as good as new
			if now.Sub(b.last) > joinBurst/joinPerSecond*time.Second {
				delete(l.hosts, h)
			}
		}
	}
	if l.hosts[host] == nil && len(l.hosts) >= mostAddresses {
		host = ""
	}
	b := l.hosts[host]
	if b == nil {
		b = &bucket{left: joinBurst, last: now}
		l.hosts[host] = b
	}
	b.left = min(joinBurst, b.left+max(0, now.Sub(b.last).Seconds())*joinPerSecond)
	b.last = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

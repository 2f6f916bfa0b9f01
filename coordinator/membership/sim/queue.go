package sim

// event is something that happens at a moment. What its fields mean depends on its kind.
type event struct {
	at    int64 // virtual nanoseconds
	seq   uint32
	kind  kind
	w     int16  // worker's slot
	token uint32 // what must still be so: see world.handle
	x     uint64
}

// kind is what an event is.
type kind uint8

const (
	atDial      kind = iota // w tries to reach the leader; token: its life
	atHello                 // x: message, at the leader
	atStatus                // x: message, at the leader
	atReset                 // the leader notices that connection x ended
	atMessage               // x: message, at worker w
	atLost                  // w notices that connection x ended
	atHeartbeat             // w's; token: its life
	atCommit                // x: proposal
	atDecide                // the leader's deadline; token: its reign
	atElected               // a new leader begins
	atFormed                // w has exchanged with its group; token: its task
	atBegun                 // w has its first state; token: its task
	atComputed              // w has its shards' gradients; token: its task
	atReduced               // w has the sum; token: its task, x: message
	atBroken                // w sees that group x is broken
	atCopied                // w's copy is there; token: its copy
	atSaved                 // w's upload number x is whole; token: its life
	atFault                 // the next fault
	atRestart               // w is started again; token: its life
	atContinue              // w is not stopped, cut off, slow or stuck any more; token: that trouble
	atClient                // a client asks again; x: proposal
	atCheck                 // is there progress?
)

// queue is a heap of events by time, and by order of making at one time.
type queue struct {
	heap []event
	seq  uint32
}

func (q *queue) before(i, j int) bool {
	a, b := &q.heap[i], &q.heap[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (q *queue) push(e event) {
	q.seq++
	e.seq = q.seq
	q.heap = append(q.heap, e)
	for i := len(q.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.before(i, up) {
			return
		}
		q.heap[i], q.heap[up] = q.heap[up], q.heap[i]
		i = up
	}
}

func (q *queue) pop() event {
	top := q.heap[0]
	last := len(q.heap) - 1
	q.heap[0] = q.heap[last]
	q.heap = q.heap[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			return top
		}
		if down+1 < last && q.before(down+1, down) {
			down++
		}
		if !q.before(down, i) {
			return top
		}
		q.heap[i], q.heap[down] = q.heap[down], q.heap[i]
		i = down
	}
}

// dice is SplitMix64.
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	return mix(uint64(*d))
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below is uniform in [0, n).
func (d *dice) below(n int) int { return int(d.next() >> 33 % uint64(n)) }

// chance is true in so many of 100 cases.
func (d *dice) chance(percent int) bool { return d.below(100) < percent }

const ms = 1_000_000 // virtual nanoseconds

// between is uniform between two numbers of milliseconds, in nanoseconds.
func (d *dice) between(low, high int64) int64 {
	return low*ms + int64(d.next()>>1%uint64((high-low)*ms+1))
}

package nats

import "mp/metrics"

// entry is an event on its way.
type entry struct {
	sequence uint64
	kind     metrics.Kind
	data     []byte // JSON
}

// entryOverhead is what an entry costs beside its data, in bytes.
const entryOverhead = 96

func (e entry) size() int { return len(e.data) + entryOverhead }

// queue holds what is not published yet, in two lines that keep one order through the sequence numbers: of what is lossy
// the oldest goes first when there is no room, of the rest only when nothing lossy is left. It is not safe for concurrent
// use.
type queue struct {
	maxEvents, maxBytes int

	lossy, kept line
	bytes       int
	dropped     int // since the last call of takeDropped
}

// push appends e and makes room for it.
func (q *queue) push(e entry) {
	if lossy(e.kind) {
		q.lossy.push(e)
	} else {
		q.kept.push(e)
	}
	q.bytes += e.size()
	for q.len() > q.maxEvents || q.bytes > q.maxBytes {
		from := &q.lossy
		if from.len() == 0 {
			from = &q.kept
		}
		q.bytes -= from.pop().size()
		q.dropped++
	}
}

// pop takes the oldest entry, if there is one.
func (q *queue) pop() (entry, bool) {
	from := &q.kept
	switch {
	case q.len() == 0:
		return entry{}, false
	case q.kept.len() == 0 || q.lossy.len() > 0 && q.lossy.first().sequence < q.kept.first().sequence:
		from = &q.lossy
	}
	e := from.pop()
	q.bytes -= e.size()
	return e, true
}

func (q *queue) len() int { return q.lossy.len() + q.kept.len() }

// takeDropped is how many entries had no room since the last call.
func (q *queue) takeDropped() int {
	n := q.dropped
	q.dropped = 0
	return n
}

// lossy are kinds of which there are many and each says little.
func lossy(kind metrics.Kind) bool {
	switch kind {
	case metrics.KindStep, metrics.KindWorker, metrics.KindGoodput:
		return true
	}
	return false
}

// lineKeeps is how many entries an empty line keeps memory for.
const lineKeeps = 4096

// line is a first-in, first-out list.
type line struct {
	entries []entry
	head    int // entries before it are gone
}

func (l *line) len() int     { return len(l.entries) - l.head }
func (l *line) first() entry { return l.entries[l.head] }
func (l *line) push(e entry) { l.entries = append(l.entries, e) }

func (l *line) pop() entry {
	e := l.entries[l.head]
	l.entries[l.head] = entry{}
	l.head++
	if l.head == len(l.entries) && cap(l.entries) > lineKeeps {
		*l = line{}
	}
	if l.head > len(l.entries)/2 { // moves each entry at most once on average
		n := copy(l.entries, l.entries[l.head:])
		clear(l.entries[n:])
		l.entries, l.head = l.entries[:n], 0
	}
	return e
}

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
	case metrics.KindStep, metrics.KindWorker, metrics.KindGoodput, metrics.KindPicture, metrics.KindHistograms: // of the last each is large
		return true
	}
	return false
}

// line is a first-in, first-out list in blocks, so that no push ever copies what is there.
type line struct {
	blocks [][]entry
	head   int // of the first block, gone
	n      int
}

const blockSize = 512

func (l *line) len() int     { return l.n }
func (l *line) first() entry { return l.blocks[0][l.head] }

func (l *line) push(e entry) {
	last := len(l.blocks) - 1
	switch {
	case last < 0: // most of the time few wait: the first block grows as needed
		l.blocks = append(l.blocks, nil)
		last++
	case len(l.blocks[last]) == blockSize:
		l.blocks = append(l.blocks, make([]entry, 0, blockSize))
		last++
	}
	l.blocks[last] = append(l.blocks[last], e)
	l.n++
}

func (l *line) pop() entry {
	e := l.blocks[0][l.head]
	l.blocks[0][l.head] = entry{}
	l.head++
	l.n--
	switch {
	case l.n == 0:
		*l = line{}
	case l.head == blockSize:
		l.blocks[0] = nil
		l.blocks, l.head = l.blocks[1:], 0
	}
	return e
}

package metrics

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Names of the files of a run directory that JSONL writes: numbers by step, and what else happened.
const (
	MetricsFile = "metrics.jsonl"
	EventsFile  = "events.jsonl"
)

// JSONL is a Sink that appends every event as one line of JSON to the files of a run directory: steps, epochs,
// validations, workers, goodput and histograms to MetricsFile, everything else to EventsFile; progress is not kept. A line is handed to
// the system at once, so a killed process loses none and at most cuts the last one short. An event that comes again from
// the same place of the same stream, because a recorder was killed, is kept once.
type JSONL struct {
	metrics, events         *os.File
	lastMetrics, lastEvents Origin // of the newest line of each
	err                     error  // the first that happened; nothing is written after it
}

// NewJSONL opens the files in dir, which must exist, to append. A last line cut short by a crash is removed first.
func NewJSONL(dir string) (*JSONL, error) {
	j := &JSONL{}
	var err error
	if j.metrics, j.lastMetrics, err = openToAppend(filepath.Join(dir, MetricsFile)); err != nil {
		return nil, err
	}
	if j.events, j.lastEvents, err = openToAppend(filepath.Join(dir, EventsFile)); err != nil {
		j.metrics.Close()
		return nil, err
	}
	return j, nil
}

// openToAppend opens a file of lines, cuts what follows the last complete one, and tells that one's origin.
func openToAppend(path string) (*os.File, Origin, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, Origin{}, fmt.Errorf("open log of the run: %w", err)
	}
	whole, err := endOfLastLine(f)
	if err == nil {
		err = f.Truncate(whole)
	}
	var last Origin
	if err == nil {
		last, err = lastOrigin(f, whole)
	}
	if err != nil {
		f.Close()
		return nil, Origin{}, fmt.Errorf("continue log %s of the run: %w", path, err)
	}
	return f, last, nil
}

// lastOrigin is the origin of the newest line that has one, among the last megabyte of a file of the given size.
func lastOrigin(f *os.File, size int64) (Origin, error) {
	tail := make([]byte, min(size, 1<<20))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && len(tail) > 0 {
		return Origin{}, err
	}
	for len(tail) > 0 {
		tail = tail[:len(tail)-1] // its line feed
		begin := bytes.LastIndexByte(tail, '\n') + 1
		var line struct{ Origin *Origin }
		if json.Unmarshal(tail[begin:], &line) == nil && line.Origin != nil {
			return *line.Origin, nil
		}
		tail = tail[:begin]
	}
	return Origin{}, nil
}

// endOfLastLine is the offset after the last line feed of f, found from the end.
func endOfLastLine(f *os.File) (int64, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	block := make([]byte, 1<<16)
	for end > 0 {
		n := min(end, int64(len(block)))
		if _, err := f.ReadAt(block[:n], end-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(block[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
	}
	return 0, nil
}

// Emit appends e to its file.
func (j *JSONL) Emit(e Event) {
	if j.err != nil || e.Kind == KindProgress {
		return
	}
	f, last := j.events, &j.lastEvents
	switch e.Kind {
	case KindStep, KindEpoch, KindValidation, KindWorker, KindGoodput, KindHistograms:
		f, last = j.metrics, &j.lastMetrics
	}
	if e.Origin != nil && e.Origin.Stream.Equal(last.Stream) && e.Origin.Sequence <= last.Sequence {
		return
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
	}
	if err != nil {
		j.err = fmt.Errorf("append to log of the run: %w", err)
		return
	}
	if e.Origin != nil {
		*last = *e.Origin
	}
}

// Err is the first error since NewJSONL; every event from the one that caused it on is not kept.
func (j *JSONL) Err() error { return j.err }

// Close makes the files durable and returns the first error since NewJSONL.
func (j *JSONL) Close() error {
	return errors.Join(j.err, j.metrics.Sync(), j.events.Sync(), j.metrics.Close(), j.events.Close())
}

// maxLine bounds a line that Read takes, in bytes: a summary or a whole job is far below it.
const maxLine = 16 << 20

// Read returns the events of one file that JSONL wrote. A last line cut short is left out. A run that was killed and
// resumed repeats steps; of metrics of the same kind, update and worker, and of pictures of the same tag, only the newest
// is kept, in the place of the first.
func Read(r io.Reader) ([]Event, error) {
	type key struct {
		kind   Kind
		update int
		worker uint64
		tag    string
	}
	var events []Event
	seen := map[key]int{}
	lines := bufio.NewReaderSize(r, 1<<16)
	for n := 1; ; n++ {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read log of a run, line %d: %w", n, err)
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read log of a run, line %d: %w", n, err)
		}
		update, repeats := e.update()
		k := key{kind: e.Kind, update: update}
		if e.Worker != nil {
			k.worker = e.Worker.Worker
		}
		if e.Picture != nil {
			k.tag = e.Picture.Tag
		}
		at, again := seen[k]
		switch {
		case repeats && again:
			events[at] = e
		case repeats:
			seen[k] = len(events)
			fallthrough
		default:
			events = append(events, e)
		}
	}
}

// readLine returns a complete line without its end; io.EOF for what has no end.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case len(line) > maxLine:
			return nil, fmt.Errorf("longer than %d bytes: not a log of a run", maxLine)
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// update is the place in the run of an event that a resumed run repeats.
func (e Event) update() (int, bool) {
	switch {
	case e.Step != nil:
		return e.Step.Update, true
	case e.Epoch != nil:
		return e.Epoch.Update, true
	case e.Validation != nil:
		return e.Validation.Update, true
	case e.Worker != nil:
		return e.Worker.Update, true
	case e.Picture != nil:
		return e.Picture.Update, true
	case e.Histograms != nil:
		return e.Histograms.Update, true
	}
	return 0, false
}

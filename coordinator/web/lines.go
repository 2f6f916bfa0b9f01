package web

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"mp/metrics"
)

// cursor is a place in a run's two files: everything before has been read.
type cursor struct {
	metrics, events int64
}

func (c cursor) String() string { return fmt.Sprintf("%d.%d", c.metrics, c.events) }

// parseCursor reads what String writes; the empty word is the begin.
func parseCursor(word string) (cursor, error) {
	if word == "" {
		return cursor{}, nil
	}
	m, e, ok := strings.Cut(word, ".")
	a, err := strconv.ParseInt(m, 10, 63)
	b, err2 := strconv.ParseInt(e, 10, 63)
	if !ok || err != nil || err2 != nil || a < 0 || b < 0 {
		return cursor{}, fmt.Errorf("cursor %q: want two numbers of bytes with a dot between", word)
	}
	return cursor{a, b}, nil
}

// maxLine bounds a line in bytes: a summary or a whole job is far below it. A longer one is skipped.
const maxLine = 1 << 20

// tail reads complete lines of a file from an offset on.
type tail struct {
	file *os.File // nil: there is none yet
	r    *bufio.Reader
	at   int64 // behind the last line returned
}

// openTail opens a file of a run at an offset. A file that is missing has no lines. short is true when the file ends before
// the offset: it is not the one that the offset was of.
func openTail(dir *os.Root, name string, at int64) (t *tail, short bool, err error) {
	f, err := dir.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return &tail{at: at}, at > 0, nil
	}
	if err != nil {
		return nil, false, err
	}
	info, err := f.Stat()
	switch {
	case err == nil && !info.Mode().IsRegular():
		err = fmt.Errorf("%s is no file", name)
	case err == nil && info.Size() < at:
		f.Close()
		return nil, true, nil
	case err == nil:
		_, err = f.Seek(at, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, false, err
	}
	return &tail{file: f, r: bufio.NewReaderSize(f, 1<<16), at: at}, false, nil
}

// next returns a complete line without its end, nil where there is none yet. What has no end is left for another time.
// Lines longer than maxLine come as empty ones.
func (t *tail) next() ([]byte, error) {
	if t.file == nil {
		return nil, nil
	}
	var line []byte
	long := int64(0)
	for {
		part, err := t.r.ReadSlice('\n')
		long += int64(len(part))
		if long <= maxLine {
			line = append(line, part...)
		}
		switch {
		case err == nil:
			t.at += long
			if long > maxLine {
				return []byte{}, nil
			}
			return bytes.TrimRight(line, "\r\n"), nil
		case errors.Is(err, io.EOF):
			return nil, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

func (t *tail) close() {
	if t != nil && t.file != nil {
		t.file.Close()
	}
}

// pair is a run's two files, read together.
type pair struct {
	metrics, events *tail
}

// openPair opens both at a cursor; moved says that they are not the files that the cursor was of.
func openPair(dir *os.Root, at cursor) (p pair, moved bool, err error) {
	var a, b bool
	if p.metrics, a, err = openTail(dir, metrics.MetricsFile, at.metrics); err != nil {
		return pair{}, false, fmt.Errorf("read metrics: %w", err)
	}
	if p.events, b, err = openTail(dir, metrics.EventsFile, at.events); err != nil {
		p.close()
		return pair{}, false, fmt.Errorf("read events: %w", err)
	}
	if a || b {
		p.close()
		return pair{}, true, nil
	}
	return p, false, nil
}

func (p pair) cursor() cursor { return cursor{p.metrics.at, p.events.at} }

func (p pair) close() {
	p.metrics.close()
	p.events.close()
}

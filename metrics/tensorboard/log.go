package tensorboard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"mp/metrics"
)

// log is the files of one run of TensorBoard that one writer has written. TensorBoard reads all files of a folder by name,
// and goes on where a file grows.
type log struct {
	dir, writer string
	file        *os.File       // nil: none yet
	last        metrics.Origin // of the newest record that has one
	told        map[string]int // update of the newest record, by series
}

// place is what a record says of where its event was read, and of which series it is. It stands where TensorBoard's protocol
// has the name of a writer, so that the file itself says what it holds, and nothing beside it must agree.
func place(o *metrics.Origin, series string) string {
	if o == nil {
		o = &metrics.Origin{}
	}
	return strings.Join([]string{"mp", strconv.FormatInt(o.Stream.UnixNano(), 10), strconv.FormatUint(o.Sequence, 10), series}, " ")
}

// parsePlace reads what place wrote; false for what others wrote.
func parsePlace(text string) (o metrics.Origin, series string, ok bool) {
	parts := strings.SplitN(text, " ", 4)
	if len(parts) != 4 || parts[0] != "mp" {
		return o, "", false
	}
	nano, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return o, "", false
	}
	o.Stream = time.Unix(0, nano)
	o.Sequence, err = strconv.ParseUint(parts[2], 10, 64)
	return o, parts[3], err == nil
}

// fileName is where TensorBoard looks: by name in the order of time.
func (l *log) fileName(second int64) string {
	return filepath.Join(l.dir, fmt.Sprintf("events.out.tfevents.%010d.%s", second, l.writer))
}

// openLog reads what the writer has written so far, and opens the newest file to append. What is cut short at its end is
// removed; where something else is damaged the file is left as it is and another begins.
func openLog(dir, writer string) (*log, error) {
	l := &log{dir: dir, writer: writer, told: map[string]int{}}
	files, err := filepath.Glob(filepath.Join(dir, "events.out.tfevents.*."+writer))
	if err != nil {
		return nil, fmt.Errorf("find files for TensorBoard: %w", err)
	}
	slices.Sort(files)
	for i, path := range files {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			return nil, fmt.Errorf("open file for TensorBoard: %w", err)
		}
		whole, err := readRecords(f, l.learn)
		if err == nil && i == len(files)-1 {
			if err = f.Truncate(whole); err == nil {
				l.file = f
				break
			}
		}
		if err = errors.Join(err, f.Close()); err != nil && !errors.Is(err, errDamaged) {
			return nil, fmt.Errorf("go on with %s: %w", path, err)
		}
	}
	return l, nil
}

// learn takes note of a record that is there.
func (l *log) learn(record []byte) error {
	m, err := decode(record)
	if err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if m.restart {
		l.goBack(m.step)
	}
	if origin, series, ok := parsePlace(m.writer); ok {
		if origin.Sequence > 0 {
			l.last = origin
		}
		l.told[series] = m.step
	}
	return nil
}

// goBack forgets that anything of update, or a later one, was told.
func (l *log) goBack(update int) {
	for series, told := range l.told {
		l.told[series] = min(told, update-1)
	}
}

// write appends what e says, unless it is there.
func (l *log) write(e metrics.Event, what entry) error {
	if len(what.values) == 0 || e.Origin != nil && e.Origin.Stream.Equal(l.last.Stream) && e.Origin.Sequence <= l.last.Sequence {
		return nil
	}
	if told, ok := l.told[what.series]; ok && what.series != "" && what.update <= told {
		if !what.tellsTheTime() { // the same bits as before: see worker/DESIGN.md
			return nil
		}
		if err := l.append(message{time: e.Time, step: what.update, restart: true}); err != nil {
			return err
		}
		l.goBack(what.update)
	}
	if err := l.append(message{time: e.Time, step: what.update, writer: place(e.Origin, what.series), values: what.values}); err != nil {
		return err
	}
	l.told[what.series] = what.update
	if e.Origin != nil {
		l.last = *e.Origin
	}
	return nil
}

// append writes one record, in one piece.
func (l *log) append(m message) error {
	if l.file == nil {
		if err := l.create(m.time); err != nil {
			return err
		}
	}
	_, err := l.file.Write(frame(m.encode()))
	return err
}

// create begins a file, named after the second of its first event or, where there is such a one, the next that is free.
func (l *log) create(at time.Time) error {
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return err
	}
	for second := at.Unix(); ; second++ {
		f, err := os.OpenFile(l.fileName(second), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		l.file = f
		_, err = f.Write(frame(message{time: at}.encode()))
		return err
	}
}

func (l *log) close() error {
	if l.file == nil {
		return nil
	}
	return errors.Join(l.file.Sync(), l.file.Close())
}

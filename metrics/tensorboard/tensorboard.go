// Package tensorboard writes what happens in a run as files that TensorBoard reads: curves, pictures and histograms, training
// and validation as two runs that lie over one another. It owns the format of these files and the tags in them; it must never
// import another package of the module than metrics, nor TensorFlow. Start reading at Sink; values.go says which event becomes
// which curve, log.go how a file goes on after a crash, event.go and record.go how bytes lie in it.
package tensorboard

import (
	"errors"
	"fmt"
	"path/filepath"

	"mp/metrics"
)

// Folder is the folder of a run's directory that TensorBoard is pointed to.
const Folder = "tb"

// Config says where a Sink writes.
type Config struct {
	Dir  string // of the run, which must exist
	Name string // of whoever writes, at the end of file names: two writers of one run have different ones; letters, digits, dashes
}

// Validate reports what is wrong with c.
func (c Config) Validate() error {
	if c.Dir == "" || c.Name == "" || filepath.Base(c.Name) != c.Name {
		return fmt.Errorf("write for TensorBoard: directory %q and writer %q: want a run's directory and a plain name", c.Dir, c.Name)
	}
	return nil
}

// Sink is a metrics.Sink that writes what there is to see of an event into Folder. As in metrics.JSONL, a record is handed to
// the system at once, and an event that comes again from the same place of the same stream is kept once. Where a run goes on
// from an earlier update than it was at, TensorBoard is told that what it knows of later ones does not count.
type Sink struct {
	logs    map[string]*log // by run
	account metrics.Account
	err     error // the first that happened; nothing is written after it
}

// New goes on with the files in c.Dir, or begins them with the first event. A last record cut short by a crash is removed.
// Goodput counts what history says of the run so far.
func New(c Config, history []metrics.Event) (*Sink, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	s := &Sink{logs: map[string]*log{}}
	for _, run := range []string{train, val} {
		l, err := openLog(filepath.Join(c.Dir, Folder, run), c.Name)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.logs[run] = l
	}
	for _, e := range history {
		s.account.Hear(e)
	}
	return s, nil
}

// Emit writes e, if there is something to see of it.
func (s *Sink) Emit(e metrics.Event) {
	if s.err != nil {
		return
	}
	s.account.Hear(e)
	entries, err := s.entries(e)
	for i := 0; err == nil && i < len(entries); i++ {
		err = s.logs[entries[i].run].write(e, entries[i])
	}
	if err != nil {
		s.err = fmt.Errorf("write for TensorBoard: %w", err)
	}
}

// Err is the first error since New; nothing of the event that caused it, nor later, is certain to be kept.
func (s *Sink) Err() error { return s.err }

// Close makes the files durable and returns the first error since New.
func (s *Sink) Close() error {
	errs := []error{s.err}
	for _, run := range []string{train, val} {
		if l := s.logs[run]; l != nil {
			errs = append(errs, l.close())
		}
	}
	return errors.Join(errs...)
}

package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mp/metrics"
)

// shelf is the folder of run directories. Nothing that is done with a name leads out of it (os.Root).
type shelf struct {
	dir string

	mu     sync.Mutex
	books  map[string]*lent
	briefs map[string]brief
}

// lent is an open book and when it was last asked for.
type lent struct {
	book *book
	used time.Time
}

// brief is a row of the list, as of files of certain sizes.
type brief struct {
	at  cursor
	run Run
}

// maxBooks bounds the runs of which everything is kept in memory.
const maxBooks = 16

func newShelf(dir string) *shelf {
	return &shelf{dir: dir, books: map[string]*lent{}, briefs: map[string]brief{}}
}

// errNoRun is in the chain of every error about a run that is not there.
var errNoRun = errors.New("there is no such run")

// open opens a run's directory; the caller closes it.
func (s *shelf) open(name string) (*os.Root, error) {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\\\x00") || !filepath.IsLocal(name) {
		return nil, fmt.Errorf("%w: %q is no name of a run", errNoRun, name)
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder of runs: %w", err)
	}
	defer root.Close()
	dir, err := root.OpenRoot(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", errNoRun, name)
	}
	if err != nil {
		return nil, fmt.Errorf("open run %s: %w", name, err)
	}
	return dir, nil
}

// book is a run's book, up to date.
func (s *shelf) book(name string, dir *os.Root) (*book, error) {
	s.mu.Lock()
	l := s.books[name]
	if l == nil {
		l = &lent{book: newBook(name)}
		s.books[name] = l
	}
	l.used = time.Now()
	if len(s.books) > maxBooks {
		oldest := name
		for k, v := range s.books {
			if v.used.Before(s.books[oldest].used) {
				oldest = k
			}
		}
		delete(s.books, oldest) // who still reads it keeps it until then
	}
	s.mu.Unlock()
	return l.book, l.book.refresh(dir)
}

// list is all runs, the newest first. A run that cannot be read is listed with the reason.
func (s *shelf) list() ([]Run, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return []Run{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all, seen := []Run{}, map[string]brief{}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || !e.IsDir() && e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		b, isRun, err := s.look(name)
		if err != nil {
			b.run = Run{Name: name, Problems: []string{err.Error()}}
		}
		if isRun || err != nil && e.IsDir() {
			all, seen[name] = append(all, b.run), b
		}
	}
	s.briefs = seen
	slices.SortStableFunc(all, func(a, b Run) int { return begin(b).Compare(begin(a)) })
	return all, nil
}

// begin is when a run began: one that has not comes first.
func begin(r Run) time.Time {
	if r.Began == nil {
		return time.Now()
	}
	return *r.Began
}

// look reads what is new in a run's files; s.mu is held.
func (s *shelf) look(name string) (brief, bool, error) {
	dir, err := s.open(name)
	if err != nil {
		return brief{}, false, err
	}
	defer dir.Close()
	b, ok := s.briefs[name]
	if !ok || b.run.Began == nil {
		b = brief{run: Run{Name: name}}
		yaml := readJob(dir)
		for _, o := range settings(nil, yaml) {
			switch o.Name {
			case "model":
				b.run.Model = o.Value
			case "recipe":
				b.run.Recipe = o.Value
			}
		}
		ok = len(yaml) > 0
	}
	p, moved, err := openPair(dir, b.at)
	if err == nil && moved {
		b = brief{run: Run{Name: name, Model: b.run.Model, Recipe: b.run.Recipe}}
		p, _, err = openPair(dir, b.at)
	}
	if err != nil {
		return b, false, err
	}
	defer p.close()
	if err := b.read(p); err != nil {
		return b, false, fmt.Errorf("read run %s: %w", name, err)
	}
	b.run.Problems = problems(p, 0)
	return b, ok || p.metrics.file != nil || p.events.file != nil, nil
}

// read takes new lines. Of the many reports of steps and workers only the last one counts for a list.
func (b *brief) read(p pair) error {
	for _, t := range []*tail{p.events, p.metrics} {
		var last []byte
		for {
			line, err := t.next()
			if err != nil {
				return err
			}
			if line == nil {
				break
			}
			head := line[:min(len(line), 120)]
			switch {
			case bytes.Contains(head, []byte(`"kind":"`+metrics.KindStep+`"`)):
				last = append(last[:0], line...)
			case bytes.Contains(head, []byte(`"kind":"`+metrics.KindWorker+`"`)):
			default:
				b.take(line)
			}
		}
		b.take(last)
	}
	b.at = p.cursor()
	return nil
}

func (b *brief) take(line []byte) {
	var e metrics.Event
	if len(line) > 0 && json.Unmarshal(line, &e) == nil {
		b.run.take(e)
	}
}

// cluster is what the cluster says of a run.
type cluster struct {
	job    Job
	known  bool
	detail Detail
	word   string // State.Cluster
	err    error
}

// ask asks the cluster about a run.
func (s *Server) ask(ctx context.Context, run string) cluster {
	if s.cfg.Jobs == nil {
		return cluster{word: "none"}
	}
	var c cluster
	if c.job, c.known, c.err = s.jobs.of(ctx, run); !c.known {
		c.word = "forgot"
		if c.err != nil {
			c.word = "silent"
		}
		return c
	}
	var err error
	c.detail, err = s.jobs.show(ctx, c.job.ID)
	c.word, c.err = "knows", errors.Join(c.err, err)
	if c.err != nil {
		c.word = "silent"
	}
	return c
}

// listing is what /api/runs says.
type listing struct {
	Runs    []Run  `json:"runs"`
	Version string `json:"version"`
	Folder  string `json:"folder"`
	Trouble string `json:"trouble,omitempty"` // why the cluster says nothing
}

func (s *Server) listing(ctx context.Context) (listing, error) {
	runs, err := s.shelf.list()
	if err != nil {
		return listing{}, err
	}
	l := listing{Runs: runs, Version: s.cfg.Version, Folder: s.cfg.Runs}
	for i := range l.Runs {
		j, known, err := s.jobs.of(ctx, l.Runs[i].Name)
		if err != nil {
			l.Trouble = err.Error()
		}
		l.Runs[i].settle(j, known, time.Now())
	}
	return l, nil
}

func (s *Server) serveRuns(w http.ResponseWriter, r *http.Request) {
	l, err := s.listing(r.Context())
	if err != nil {
		fail(w, http.StatusInternalServerError, "%v", err)
		return
	}
	reply(w, l)
}

// refuse answers with why a run cannot be shown.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if errors.Is(err, errNoRun) {
		status = http.StatusNotFound
	}
	fail(w, status, "%v", err)
}

func (s *Server) serveRun(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	dir, err := s.shelf.open(name)
	if err != nil {
		refuse(w, err)
		return
	}
	defer dir.Close()
	b, err := s.shelf.book(name, dir)
	if err != nil {
		refuse(w, err)
		return
	}
	reply(w, b.snapshot(s.ask(r.Context(), name), readJob(dir), time.Now()))
}

func (s *Server) servePicture(w http.ResponseWriter, r *http.Request) {
	dir, err := s.shelf.open(r.PathValue("name"))
	if err != nil {
		refuse(w, err)
		return
	}
	defer dir.Close()
	file := r.PathValue("file")
	if filepath.Ext(file) != ".png" || strings.HasPrefix(file, ".") || strings.ContainsAny(file, "/\\\x00") {
		fail(w, http.StatusNotFound, "%q is no name of a picture", file)
		return
	}
	f, err := dir.Open(filepath.Join(metrics.PicturesFolder, file))
	if err != nil {
		fail(w, http.StatusNotFound, "run %s has no picture %s", r.PathValue("name"), file)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		fail(w, http.StatusNotFound, "run %s has no picture %s", r.PathValue("name"), file)
		return
	}
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Cache-Control", "no-cache") // a resumed run may make it again
	http.ServeContent(w, r, "", info.ModTime(), f)
}

package coordinator

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
)

// arrival is a file on its way. One goroutine uses it. It ends with commit, keep or drop.
type arrival struct {
	shelf     *shelf
	directory string
	mark      mark
	root      *os.Root
	file      *os.File
	have      int64
	sum       hash.Hash
}

// arrive opens a file to be written from offset on: 0, or as far as it has arrived before.
func (s *shelf) arrive(directory string, m mark, offset int64) (_ *arrival, err error) {
	if err := checkPath(m.Path); err != nil {
		return nil, err
	}
	if m.Size < 0 || m.Size > maxFileBytes {
		return nil, fmt.Errorf("%s has %d bytes: %w", m.Path, m.Size, errBadName)
	}
	key := directory + "/" + m.Path
	s.mu.Lock()
	if s.busy[key] {
		s.mu.Unlock()
		return nil, errBusy
	}
	s.busy[key] = true
	s.mu.Unlock()
	made := &arrival{shelf: s, directory: directory, mark: m, sum: sha256.New()}
	defer func() {
		if err != nil {
			made.release()
		}
	}()
	if made.root, err = s.root(directory, true); err != nil {
		return nil, err
	}
	if made.taken() {
		return nil, errTaken
	}
	if err = made.root.MkdirAll(arrivingDir, 0o755); err != nil {
		return nil, err
	}
	old, have := s.partial(directory, m.Path)
	if offset != 0 && (old != m || offset != have) {
		return nil, errOffset
	}
	if offset == 0 {
		text, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		made.root.Remove(partName(m.Path)) // before its mark changes: bytes of another version must not pass for this one's
		if err := made.root.WriteFile(partName(m.Path)+".json", text, 0o644); err != nil {
			made.removeParts()
			return nil, err
		}
	}
	if made.file, err = made.root.OpenFile(partName(m.Path), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	if made.have, err = io.Copy(made.sum, made.file); err != nil { // a resumed file is read again for its checksum
		return nil, err
	}
	return made, nil
}

var errBusy = errors.New("the file is being written by somebody else")

// taken says whether the file's checkpoint is whole already.
func (a *arrival) taken() bool {
	name := checkpointOf(a.mark.Path)
	if name == "" {
		return false
	}
	_, err := a.root.Stat(path.Join(checkpointsDir, name))
	return err == nil
}

// write appends.
func (a *arrival) write(p []byte) error {
	if a.have+int64(len(p)) > a.mark.Size {
		return fmt.Errorf("%s is longer than the %d bytes announced: %w", a.mark.Path, a.mark.Size, errOffset)
	}
	n, err := a.file.Write(p)
	a.sum.Write(p[:n])
	a.have += int64(n)
	return err
}

// keep ends the arrival and leaves what has come for a later one.
func (a *arrival) keep() { a.release() }

// drop ends the arrival and leaves nothing of it.
func (a *arrival) drop() {
	a.removeParts()
	a.release()
}

func (a *arrival) removeParts() {
	a.root.Remove(partName(a.mark.Path) + ".json")
	a.root.Remove(partName(a.mark.Path))
}

func (a *arrival) release() {
	if a.file != nil {
		a.file.Close()
	}
	if a.root != nil {
		a.root.Close()
	}
	s := a.shelf
	s.mu.Lock()
	delete(s.busy, a.directory+"/"+a.mark.Path)
	s.mu.Unlock()
}

// commit makes the file appear, durable, under its name, and ends the arrival. With an error nothing of it is left. The
// manifest of a checkpoint makes the whole checkpoint appear.
func (a *arrival) commit() (err error) {
	defer func() {
		if err != nil {
			a.drop()
		} else {
			a.removeParts()
			a.release()
		}
	}()
	if a.have != a.mark.Size || hex.EncodeToString(a.sum.Sum(nil)) != a.mark.SHA256 {
		return errSum
	}
	if a.taken() {
		return errTaken
	}
	if err := a.shelf.sync(a.file); err != nil {
		return err
	}
	p := a.mark.Path
	to := staged(p)
	if err := a.root.MkdirAll(path.Dir(to), 0o755); err != nil {
		return err
	}
	if err := a.root.Rename(partName(p), to); err != nil {
		return err
	}
	if err := a.shelf.syncDir(a.root, path.Dir(to)); err != nil {
		return err
	}
	name := checkpointOf(p)
	if name == "" || path.Base(p) != manifestName {
		return nil
	}
	if err := a.root.Rename(path.Join(checkpointsDir, stagePrefix+name), path.Join(checkpointsDir, name)); err != nil {
		return err
	}
	return a.shelf.syncDir(a.root, checkpointsDir)
}

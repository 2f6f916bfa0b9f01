package metrics

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Tags of pictures, as people know them from TensorBoard.
const (
	TagImages      = "Image/Org_Image"   // what the network learns from, as augmented
	TagSaliency    = "Image/Image_Atten" // where it looks in them
	TagAdversarial = "Image/Adv_Image"   // as they are, attacked, and the difference; only where the job trains against attacks
)

// Picture is a picture made during training by the worker that speaks first.
type Picture struct {
	Tag     string `json:"tag"`
	Caption string `json:"caption"` // what it shows, in a sentence
	Epoch   int    `json:"epoch"`
	Update  int    `json:"update"`
	File    string `json:"file"`          // in the run's directory, with slashes
	PNG     []byte `json:"png,omitempty"` // the picture on its way; not kept in files of events
}

// MaxPictureBytes is the most that PNG may have: with a third more for JSON an event stays below the megabyte that NATS
// takes.
const MaxPictureBytes = 700 << 10

// PicturesFolder is the folder of a run's directory with its pictures.
const PicturesFolder = "pictures"

// PictureFile is where the picture of a tag and update belongs, in a run's directory.
func PictureFile(update int, tag string) string {
	slug := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, tag)
	return fmt.Sprintf("%s/%08d-%s.png", PicturesFolder, update, slug)
}

// Pictures is a Sink that writes each picture into its place in a run's directory and hands every event on, pictures
// without their bytes. A file appears complete or not at all; a picture that comes again replaces itself.
type Pictures struct {
	dir  string
	next Sink
	err  error // the first that happened; pictures are not written after it
}

// NewPictures writes into dir, which must exist; the folder for pictures is made with the first of them.
func NewPictures(dir string, next Sink) *Pictures { return &Pictures{dir: dir, next: next} }

// Emit writes a picture, if e is one, and hands e on.
func (p *Pictures) Emit(e Event) {
	if p.err != nil { // what follows comes again once there is another sink
		return
	}
	if e.Picture != nil && len(e.Picture.PNG) > 0 {
		if err := p.write(*e.Picture); err != nil {
			p.err = fmt.Errorf("write picture of the run: %w", err)
			return
		}
		without := *e.Picture
		without.PNG, e.Picture = nil, &without
	}
	p.next.Emit(e)
}

func (p *Pictures) write(picture Picture) error {
	name := filepath.FromSlash(picture.File)
	if !filepath.IsLocal(name) || filepath.Dir(name) != PicturesFolder {
		return fmt.Errorf("%q is no place in folder %s", picture.File, PicturesFolder)
	}
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(picture.PNG)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// Err is the first error of writing, or what the next sink says.
func (p *Pictures) Err() error {
	if next, ok := p.next.(interface{ Err() error }); ok {
		return errors.Join(p.err, next.Err())
	}
	return p.err
}

// Close closes the next sink, if it can be closed.
func (p *Pictures) Close() error {
	if c, ok := p.next.(io.Closer); ok {
		return errors.Join(p.err, c.Close())
	}
	return p.err
}

package metrics

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func picture(update int, png string) Event {
	return Event{Kind: KindPicture, Picture: &Picture{Tag: TagSaliency, Caption: "c", Epoch: 1, Update: update, File: PictureFile(update, TagSaliency), PNG: []byte(png)}}
}

func TestPicturesAreKeptBesideTheEvents(t *testing.T) {
	dir := t.TempDir()
	files, err := NewJSONL(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := NewPictures(dir, files)
	first := picture(390, "a picture")
	p.Emit(first)
	p.Emit(Event{Kind: KindStory, Story: &Story{Text: "passes by"}})
	p.Emit(picture(390, "drawn again after a resume"))
	if err := errors.Join(p.Err(), p.Close()); err != nil {
		t.Fatal(err)
	}
	if string(first.Picture.PNG) != "a picture" {
		t.Error("the event of whoever emitted it has changed")
	}
	if got, want := first.Picture.File, "pictures/00000390-image-image-atten.png"; got != want {
		t.Errorf("file is %s, want %s", got, want)
	}
	got, err := os.ReadFile(filepath.Join(dir, first.Picture.File))
	if err != nil || string(got) != "drawn again after a resume" {
		t.Errorf("the picture is %q, %v; want the newest", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, PicturesFolder, "*")); len(left) != 1 {
		t.Errorf("the folder has %q, want the picture alone", left)
	}
	text, err := os.ReadFile(filepath.Join(dir, EventsFile))
	if err != nil || bytes.Contains(text, []byte(`"png"`)) {
		t.Errorf("events are %s, %v; want no bytes of pictures", text, err)
	}
	events, err := Read(bytes.NewReader(text))
	if err != nil || len(events) != 2 || events[0].Picture == nil || events[0].Picture.File != first.Picture.File || events[1].Story == nil {
		t.Errorf("got %+v, %v; want the picture once and the story", events, err)
	}
}

func TestPicturesThatCannotBeWrittenAreNotTaken(t *testing.T) {
	for _, file := range []string{"../x.png", "/etc/x.png", "pictures/../x.png", "x.png", "", "pictures"} {
		next := &recorder{}
		p := NewPictures(t.TempDir(), next)
		e := picture(1, "x")
		e.Picture.File = file
		p.Emit(e)
		p.Emit(Event{Kind: KindStory, Story: &Story{}})
		if err := p.Err(); err == nil || !strings.Contains(err.Error(), "is no place") || len(next.events) > 0 {
			t.Errorf("%q: got %v and %d events handed on, want an error and none", file, err, len(next.events))
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, PicturesFolder), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := NewPictures(dir, &recorder{})
	p.Emit(picture(1, "x"))
	if p.Err() == nil {
		t.Error("a file in the folder's place: no error")
	}
}

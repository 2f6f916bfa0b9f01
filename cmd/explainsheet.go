package cmd

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"mp/data"
	"mp/explain"
	"mp/ops/pixel"
)

// Shape of a contact sheet: images side by side until a row is this wide in tiles, and rows.
const (
	sheetTiles = 9
	sheetRows  = 16
)

// sheetWriter collects images with their maps and writes a contact sheet whenever one is full.
type sheetWriter struct {
	dir     string
	columns int
	files   []string
	tiles   []data.Tile
	first   string
	last    string
}

// newSheetWriter writes sheet-001.png and so on into dir; an image takes so many tiles.
func newSheetWriter(dir string, tiles int) *sheetWriter {
	return &sheetWriter{dir: dir, columns: tiles * max(1, sheetTiles/tiles)}
}

// add draws a batch.
func (w *sheetWriter) add(b *pictures, found []sighting) error {
	const pixels = pixel.Side * pixel.Side
	for i, id := range b.ids {
		name, truth := b.source.Name(id), b.source.Label(id)
		tile := data.Tile{Pixels: b.record(i), Side: pixel.Side, Title: "?", Note: path.Base(name)}
		if truth >= 0 {
			tile.Title = spoken(b.source.Classes()[truth])
		}
		if len(w.tiles) == 0 {
			w.first = name
		}
		w.last = name
		w.tiles = append(w.tiles, tile)
		for _, f := range found {
			says := spoken(b.source.Classes()[f.labels[i]])
			verdict := fmt.Sprintf("%.0f %%", 100*f.sure[i])
			switch {
			case truth < 0:
			case int(f.labels[i]) == truth:
				verdict += ", right"
			default:
				verdict += ", wrong"
			}
			for _, m := range f.maps {
				values := m.values[i*pixels : (i+1)*pixels]
				over := explain.Red
				if m.coarse {
					over = explain.Blend
				}
				note := ""
				if len(found) > 1 {
					note = f.network
				}
				w.tiles = append(w.tiles,
					data.Tile{Pixels: explain.Heat(values), Side: pixel.Side, Title: m.method, Note: note},
					data.Tile{Pixels: over(b.record(i), values), Side: pixel.Side, Title: says, Note: verdict})
			}
		}
		if len(w.tiles) >= w.columns*sheetRows {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what has been collected, if anything.
func (w *sheetWriter) flush() error {
	if len(w.tiles) == 0 {
		return nil
	}
	file := filepath.Join(w.dir, fmt.Sprintf("sheet-%03d.png", len(w.files)+1))
	s := data.Sheet{
		Title:    "What the network looks at",
		Subtitle: fmt.Sprintf("%s to %s   ·   below an image what is true, below an overlay what the network says", w.first, w.last),
		Columns:  w.columns, Zoom: 1, Tiles: w.tiles,
	}
	if err := s.WriteFile(file); err != nil {
		return err
	}
	w.files, w.tiles = append(w.files, file), nil
	return nil
}

// spoken is a class as people say it.
func spoken(class string) string { return strings.ReplaceAll(class, "_", " ") }

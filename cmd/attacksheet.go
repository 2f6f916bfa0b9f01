package cmd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"mp/attack"
	"mp/chart"
	"mp/data"
	"mp/ops/pixel"
)

// attackResult is everything that `mp attack` found.
type attackResult struct {
	rows   []attacked
	sets   []*attackedSet
	points []attacked
}

// writeAttack writes pictures, curves and the result to --out. Nothing is written before all is known, and each file appears
// complete or not at all.
func writeAttack(o attackFlags, r *attackRun, found attackResult) error {
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("make the folder for pictures: %w", err)
	}
	for i, row := range found.rows {
		sheet, err := r.sheet(row, found.sets[i])
		if err != nil {
			return err
		}
		if err := sheet.WriteFile(filepath.Join(o.out, row.Attack+".png")); err != nil {
			return err
		}
	}
	if len(found.points) > 0 {
		picture, err := chart.PNG(curveChart(found.rows, found.points, o.curve), 1.5)
		if err != nil {
			return err
		}
		if err := writeWhole(filepath.Join(o.out, "curve-"+o.curve+".png"), picture); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(attackJSON{found.rows, found.points}, "", " ")
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(o.out, "attack.json"), append(text, '\n'))
}

// sheet shows some images: as they were, changed, and the change, amplified to where it can be seen.
func (r *attackRun) sheet(row attacked, set *attackedSet) (*data.Sheet, error) {
	const side, values = pixel.Side, 3 * pixel.Side * pixel.Side
	sheet := &data.Sheet{
		Title: row.Attack + ", eps " + epsText(row.Eps), Columns: 6, Zoom: 1,
		Subtitle: fmt.Sprintf("%d images: top-1 %.1f %% clean, %.1f %% attacked. Each: the image and what the network says of it; changed; the change, amplified", row.Images, row.Clean1, row.Top1),
	}
	for k, i := range set.kept[:min(shown, len(set.kept))] {
		id := int(set.ids[i])
		clean, err := r.source.Read(id)
		if err != nil {
			return nil, err
		}
		change := attack.NewChange(clean, set.images[k*values:(k+1)*values])
		sheet.Tiles = append(sheet.Tiles,
			data.Tile{Pixels: clean, Side: side, Title: r.class(int(set.labels[i])), Note: "says " + r.class(set.clean[i][0])},
			data.Tile{Pixels: change.After, Side: side, Title: "says " + r.class(set.after[i][0]), Note: filepath.Base(r.source.Name(id))},
			data.Tile{Pixels: change.Difference, Side: side, Title: "change", Note: change.String()})
	}
	return sheet, nil
}

func (r *attackRun) class(i int) string { return strings.ReplaceAll(r.source.Classes()[i], "_", " ") }

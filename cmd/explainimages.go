package cmd

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	torch "github.com/wangkuiyi/gotorch"

	"mp/data"
	"mp/job"
	"mp/ops"
	"mp/ops/pixel"
)

// pictureSource are images that are read one by one, so that an unreadable one stops no other.
type pictureSource interface {
	Len() int
	Classes() []string
	Label(i int) int // -1 where it is unknown
	Name(i int) string
	Read(i int) ([]byte, error) // pixel.RecordBytes of H W C; ErrData where it cannot be used
}

// openPictures opens a pack, a MiniPlaces folder (by its pack where it has one, else by its files) or a folder of JPEGs.
func openPictures(path string, split data.Split) (pictureSource, func(), error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: no images at %s: give a MiniPlaces folder, a pack or a folder of JPEGs", job.ErrConfig, path)
	}
	if !info.IsDir() {
		return openPackPictures(path)
	}
	for _, folder := range packFolders(path) {
		if pack := data.PackPath(folder, split); exists(pack) {
			return openPackPictures(pack)
		}
	}
	root, err := data.OpenRoot(path)
	if err == nil {
		entries, err := root.Entries(split)
		if err != nil {
			return nil, nil, err
		}
		f := &filePictures{classes: root.Classes()}
		for _, e := range entries {
			f.paths, f.names, f.labels = append(f.paths, root.Path(e.Name)), append(f.names, e.Name), append(f.labels, int(e.Label))
		}
		return f, func() {}, nil
	}
	f, folderErr := walkPictures(path)
	if folderErr != nil {
		return nil, nil, err // what OpenRoot says of the folder is of more use
	}
	return f, func() {}, nil
}

func openPackPictures(path string) (pictureSource, func(), error) {
	p, err := data.OpenPack(path)
	if err != nil {
		return nil, nil, err
	}
	return packPictures{p}, func() { p.Close() }, nil
}

// packPictures are the records of a pack.
type packPictures struct{ *data.Pack }

func (p packPictures) Read(i int) ([]byte, error) {
	if err := p.Check([]int32{int32(i)}); err != nil {
		return nil, err
	}
	return p.Record(i), nil
}

// filePictures are JPEGs.
type filePictures struct {
	paths, names, classes []string
	labels                []int
}

func (f *filePictures) Len() int          { return len(f.paths) }
func (f *filePictures) Classes() []string { return f.classes }
func (f *filePictures) Label(i int) int   { return f.labels[i] }
func (f *filePictures) Name(i int) string { return f.names[i] }

func (f *filePictures) Read(i int) ([]byte, error) {
	record, err := readRecord(f.paths[i])
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", f.paths[i], data.ErrData, err)
	}
	return record, nil
}

// walkPictures lists the JPEGs below a folder that is no MiniPlaces root, by name. Their classes are those of MiniPlaces' size,
// without names.
func walkPictures(dir string) (*filePictures, error) {
	f := &filePictures{}
	for i := range 100 {
		f.classes = append(f.classes, fmt.Sprintf("class %d", i))
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if ext := strings.ToLower(filepath.Ext(path)); err == nil && !d.IsDir() && (ext == ".jpg" || ext == ".jpeg") {
			f.paths = append(f.paths, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	if len(f.paths) == 0 {
		return nil, fmt.Errorf("%w: no JPEG in %s", job.ErrConfig, dir)
	}
	slices.Sort(f.paths)
	for _, path := range f.paths {
		inside, err := filepath.Rel(dir, path)
		if err != nil {
			return nil, err
		}
		f.names, f.labels = append(f.names, filepath.ToSlash(inside)), append(f.labels, -1)
	}
	return f, nil
}

// pictures are images read together.
type pictures struct {
	source  pictureSource
	ids     []int
	records []byte
}

// record is the pixels of picture i, H W C.
func (p *pictures) record(i int) []byte {
	return p.records[i*pixel.RecordBytes : (i+1)*pixel.RecordBytes]
}

// normalised is what a network sees: [N 3 128 128], NCHW in meaning and N H W C in memory.
func (p *pictures) normalised(s *ops.Scope, d ops.DType) torch.Tensor {
	spec := pixel.OutSpec{}.ImageNet()
	n := int64(len(p.ids))
	v := make([]float64, len(p.records))
	for i, b := range p.records {
		v[i] = (float64(b)/255 - float64(spec.Mean[i%3])) / float64(spec.Std[i%3])
	}
	return s.Run(func(c *ops.Scope) torch.Tensor {
		return c.Permute(c.To(ops.From(c, v, n, pixel.Side, pixel.Side, 3), d), 0, 3, 1, 2)
	})
}

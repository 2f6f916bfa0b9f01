package checkpoint

import (
	"archive/zip"
	"errors"
	"io"
	"strings"
)

// torchFile is what torch.save wrote: a pickle, and the storages that it refers to.
type torchFile struct {
	root any
	// storage returns the little-endian bytes of a storage, exactly numel elements. Two calls for a key may return the
	// same memory.
	storage func(ref storageRef) ([]byte, error)
}

// openTorchZip reads the container that torch.save writes since PyTorch 1.6: a zip archive, all entries in one folder
// and not compressed; data.pkl is the pickle, data/KEY the storages, byteorder the machine's ("little" when absent).
// Errors match ErrFormat, except what r itself returns.
func openTorchZip(r io.ReaderAt, size int64) (torchFile, error) {
	// A damaged directory makes archive/zip read at negative offsets; the section answers these with EOF.
	archive, err := zip.NewReader(io.NewSectionReader(r, 0, size), size)
	if err != nil {
		return torchFile{}, zipError(err)
	}
	folder := ""
	entries := map[string]*zip.File{}
	for _, f := range archive.File {
		if entries[f.Name] != nil {
			return torchFile{}, malformed("the zip archive holds %q twice", f.Name)
		}
		entries[f.Name] = f
		if at, ok := strings.CutSuffix(f.Name, "data.pkl"); ok && strings.Count(f.Name, "/") == 1 {
			folder = at
		}
	}
	if folder == "" {
		return torchFile{}, malformed("the zip archive holds no data.pkl: it was not written by torch.save")
	}
	// Entries that are not compressed and do not overlap hold no more bytes than the file; budget enforces it.
	budget := size
	read := func(name string, limit int64) ([]byte, error) {
		f := entries[folder+name]
		if f == nil {
			return nil, malformed("the zip archive lacks %s%s", folder, name)
		}
		n := int64(f.UncompressedSize64)
		if f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 {
			return nil, malformed("%s is compressed, which torch.save never does", f.Name)
		}
		if n < 0 || n > limit || n > budget {
			return nil, malformed("%s claims %d bytes, more than can be", f.Name, f.UncompressedSize64)
		}
		budget -= n
		in, err := f.Open()
		if err != nil {
			return nil, zipError(err)
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(in, data); err != nil {
			return nil, zipError(err)
		}
		// The checksum is compared at the end of the entry.
		if _, err := io.Copy(io.Discard, in); err != nil {
			return nil, zipError(err)
		}
		return data, nil
	}
	program, err := read("data.pkl", maxPickle)
	if err != nil {
		return torchFile{}, err
	}
	big := false
	if entries[folder+"byteorder"] != nil {
		order, err := read("byteorder", 16)
		if err != nil {
			return torchFile{}, err
		}
		big = strings.TrimSpace(string(order)) == "big"
	}
	root, _, err := unpickle(program)
	if err != nil {
		return torchFile{}, err
	}
	cache := map[string][]byte{}
	return torchFile{root, func(ref storageRef) ([]byte, error) {
		want := ref.numel * int64(ref.dtype.Size())
		data, ok := cache[ref.key]
		if !ok {
			var err error
			if data, err = read("data/"+ref.key, size); err != nil {
				return nil, err
			}
			if big {
				swap(data, ref.dtype.Size())
			}
			cache[ref.key] = data
		}
		if int64(len(data)) != want {
			return nil, malformed("storage %s holds %d bytes, the pickle says %d", ref.key, len(data), want)
		}
		return data, nil
	}}, nil
}

// zipError makes the archive's own complaints match ErrFormat.
func zipError(err error) error {
	switch {
	case errors.Is(err, zip.ErrChecksum):
		return malformed("a checksum inside does not match: the file is damaged, get it again")
	case errors.Is(err, zip.ErrFormat), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return malformed("the zip archive is cut short or damaged: get it again (%v)", err)
	case errors.Is(err, zip.ErrAlgorithm):
		return malformed("the zip archive uses a compression that torch.save never does")
	}
	return err
}

// swap turns big-endian elements of size bytes into little-endian ones.
func swap(data []byte, size int) {
	for i := 0; i+size <= len(data); i += size {
		for a, b := i, i+size-1; a < b; a, b = a+1, b-1 {
			data[a], data[b] = data[b], data[a]
		}
	}
}

// tensors turns views into contiguous tensors. Copies are bounded: views of one storage that are not contiguous could
// otherwise multiply a small file.
type tensorReader struct {
	file   torchFile
	budget int64 // bytes that may still be copied
}

// read returns the tensor that v is, called name.
func (r *tensorReader) read(name string, v tensorRef) (Tensor, error) {
	data, err := r.file.storage(v.storage)
	if err != nil {
		return Tensor{}, err
	}
	size := int64(v.storage.dtype.Size())
	n, err := dataBytes(v.shape, v.storage.dtype)
	if err != nil {
		return Tensor{}, malformed("tensor %q: %w", name, err)
	}
	t := Tensor{Name: name, DType: v.storage.dtype, Shape: v.shape}
	if contiguous(v.shape, v.stride) || n == 0 {
		from := v.offset * size
		t.Data = data[from : from+n : from+n]
		return t, nil
	}
	if r.budget -= n; r.budget < 0 {
		return Tensor{}, malformed("tensor %q: the views of the file's storages add up to many times the file", name)
	}
	t.Data = make([]byte, 0, n)
	index := make([]int64, len(v.shape))
	at := v.offset
	for {
		t.Data = append(t.Data, data[at*size:(at+1)*size]...)
		d := len(index) - 1
		for ; d >= 0; d-- {
			index[d]++
			at += v.stride[d]
			if index[d] < v.shape[d] {
				break
			}
			at -= index[d] * v.stride[d]
			index[d] = 0
		}
		if d < 0 {
			return t, nil
		}
	}
}

// contiguous tells whether elements lie in C order without gaps; the stride of a dimension of one does not matter.
func contiguous(shape, stride []int64) bool {
	want := int64(1)
	for d := len(shape) - 1; d >= 0; d-- {
		if shape[d] != 1 && stride[d] != want {
			return false
		}
		want *= shape[d]
	}
	return true
}

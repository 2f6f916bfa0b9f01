package checkpoint

import (
	"encoding/binary"
	"io"
)

// legacyMagic is the integer 0x1950a86a20f9469cfc6c that starts files of torch.save before PyTorch 1.6.
const legacyMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

// legacyStart is the pickle of legacyMagic, protocol 2: PROTO 2, LONG1 of 10 bytes.
const legacyStart = "\x80\x02\x8a\x0a" + legacyMagic

// openTorchLegacy reads that format: the pickles of the magic number, the format's version, the writing machine, the
// object, and the list of storage keys, one after another; then, for each key, the storage's number of elements as
// 8 bytes and its data. Errors match ErrFormat, except what r itself returns.
func openTorchLegacy(r io.ReaderAt, size int64) (torchFile, error) {
	head := make([]byte, min(size, maxPickle))
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, size), head); err != nil {
		return torchFile{}, shortRead(err)
	}
	var parts [5]any // magic, version, machine, object, keys
	at := 0
	for i := range parts {
		v, n, err := unpickle(head[at:])
		if err != nil {
			return torchFile{}, err
		}
		parts[i] = v
		at += n
	}
	if parts[0] != bigInt(legacyMagic) || parts[1] != int64(1001) {
		return torchFile{}, malformed("not a file of torch.save")
	}
	if machine, ok := parts[2].(*dict); !ok || machine.get("little_endian") != true {
		return torchFile{}, malformed("the file was written on a big-endian machine: save it again with a newer PyTorch")
	}
	keys, ok := parts[4].(*list)
	if !ok {
		return torchFile{}, malformed("the list of storages is missing")
	}
	types := map[string]DType{}
	collectStorages(parts[3], types, map[any]bool{})
	type place struct{ from, numel int64 }
	places := map[string]place{}
	from := int64(at)
	for _, k := range keys.items {
		key, ok := k.(string)
		dtype, known := types[key]
		if !ok || !known {
			return torchFile{}, malformed("storage %v is listed but not used", k)
		}
		var count [8]byte
		if _, err := r.ReadAt(count[:], from); err != nil {
			return torchFile{}, shortRead(err)
		}
		n := int64(binary.LittleEndian.Uint64(count[:]))
		bytes, err := dataBytes([]int64{n}, dtype)
		if err != nil || bytes > size-from-8 {
			return torchFile{}, malformed("storage %s: %d elements do not fit the file: it is cut short, get it again", key, n)
		}
		places[key] = place{from + 8, n}
		from += 8 + bytes
	}
	cache := map[string][]byte{}
	return torchFile{parts[3], func(ref storageRef) ([]byte, error) {
		p, ok := places[ref.key]
		if !ok || p.numel != ref.numel || types[ref.key] != ref.dtype {
			return nil, malformed("storage %s is not the one that the pickle describes", ref.key)
		}
		if data, ok := cache[ref.key]; ok {
			return data, nil
		}
		data := make([]byte, p.numel*int64(ref.dtype.Size()))
		if _, err := r.ReadAt(data, p.from); err != nil && len(data) > 0 {
			return nil, shortRead(err)
		}
		cache[ref.key] = data
		return data, nil
	}}, nil
}

// collectStorages notes the element type of every storage that v refers to: the data does not repeat it. Values may be
// shared and may contain themselves, so each is visited once; the depth is bounded by an explicit stack.
func collectStorages(v any, types map[string]DType, seen map[any]bool) {
	todo := []any{v}
	for len(todo) > 0 {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		var items []any
		switch v := v.(type) {
		case tensorRef:
			types[v.storage.key] = v.storage.dtype
		case storageRef:
			types[v.key] = v.dtype
		case *list:
			items = v.items
		case *tuple:
			items = v.items
		case *dict:
			items = v.values
		}
		if len(items) > 0 && !seen[v] {
			seen[v] = true
			todo = append(todo, items...)
		}
	}
}

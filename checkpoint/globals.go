package checkpoint

import (
	"bytes"
	"fmt"
)

// storageRef is the persistent id of a storage: where the bytes of one or more tensors lie in the file.
type storageRef struct {
	key   string
	dtype DType
	numel int64
}

// tensorRef is a view of a storage, not read yet. Offset and strides are in elements.
type tensorRef struct {
	storage storageRef
	offset  int64
	shape   []int64
	stride  []int64
}

// allowed reports whether the file may import module.name, which then only ever names something to build.
func allowed(g global) bool {
	switch g.module + "." + g.name {
	case "collections.OrderedDict", "torch.Size", "torch.device",
		"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_parameter":
		return true
	}
	_, storage := storageType(g)
	return storage || isDTypeName(g)
}

// storageType returns the element type of torch.FloatStorage and its like; torch.cuda's are those of old files.
func storageType(g global) (DType, bool) {
	if g.module != "torch" && g.module != "torch.cuda" {
		return 0, false
	}
	switch g.name {
	case "DoubleStorage":
		return F64, true
	case "FloatStorage":
		return F32, true
	case "HalfStorage":
		return F16, true
	case "BFloat16Storage":
		return BF16, true
	case "LongStorage":
		return I64, true
	case "IntStorage":
		return I32, true
	case "ByteStorage":
		return U8, true
	case "BoolStorage":
		return Bool, true
	}
	return 0, false
}

func isDTypeName(g global) bool {
	if g.module != "torch" {
		return false
	}
	switch g.name {
	case "float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool":
		return true
	}
	return false
}

// object reads the instructions that import names, call them and refer to storages.
func (u *unpickler) object(op byte) error {
	switch op {
	case 'c': // GLOBAL: two lines
		module, err := u.line()
		if err != nil {
			return err
		}
		name, err := u.line()
		if err != nil {
			return err
		}
		return u.pushGlobal(module, name)
	case 0x93: // STACK_GLOBAL
		names, err := u.popN(2)
		if err != nil {
			return err
		}
		module, ok1 := names[0].(string)
		name, ok2 := names[1].(string)
		if !ok1 || !ok2 {
			return fmt.Errorf("import of %s from %s", kind(names[1]), kind(names[0]))
		}
		return u.pushGlobal(module, name)
	case 'R', 0x81: // REDUCE, NEWOBJ: a callable and a tuple of arguments
		pair, err := u.popN(2)
		if err != nil {
			return err
		}
		g, ok1 := pair[0].(global)
		args, ok2 := pair[1].(*tuple)
		if !ok1 || !ok2 {
			return fmt.Errorf("call of %s with %s", kind(pair[0]), kind(pair[1]))
		}
		v, err := u.build(g, args.items)
		if err != nil {
			return fmt.Errorf("%s.%s: %w", g.module, g.name, err)
		}
		u.push(v)
	case 'b': // BUILD: the attributes of a state dictionary (its versions of modules) say nothing that is needed
		if _, err := u.pop(); err != nil {
			return err
		}
		if top, err := u.top(); err != nil {
			return err
		} else if _, ok := top.(*dict); !ok {
			return fmt.Errorf("attributes of %s are not read here", kind(top))
		}
	case 'Q': // BINPERSID
		id, err := u.pop()
		if err != nil {
			return err
		}
		ref, err := storageOf(id)
		if err != nil {
			return err
		}
		u.push(ref)
	}
	return nil
}

func (u *unpickler) line() (string, error) {
	i := bytes.IndexByte(u.in[u.at:], '\n')
	if i < 0 || i > 1000 {
		return "", fmt.Errorf("an import name has no end")
	}
	s := string(u.in[u.at : u.at+i])
	u.at += i + 1
	return s, nil
}

func (u *unpickler) pushGlobal(module, name string) error {
	g := global{module, name}
	if !allowed(g) {
		return fmt.Errorf("the file wants %.100q from Python's %.100q, which is not read here: save it again with torch.save of plain tensors, numbers and texts", name, module)
	}
	u.push(g)
	return nil
}

// build is what "calling" an imported name amounts to.
func (u *unpickler) build(g global, args []any) (any, error) {
	switch g.name {
	case "OrderedDict":
		return u.orderedDict(args)
	case "_rebuild_tensor_v2", "_rebuild_tensor":
		return buildTensor(args)
	case "_rebuild_parameter":
		if len(args) > 0 {
			if t, ok := args[0].(tensorRef); ok {
				return t, nil
			}
		}
	case "Size":
		if len(args) == 1 {
			if t, ok := args[0].(*tuple); ok {
				return t, nil
			}
		}
	case "device":
		if len(args) > 0 {
			if s, ok := args[0].(string); ok {
				return s, nil
			}
		}
	}
	return nil, fmt.Errorf("called with %d arguments that it does not take", len(args))
}

// orderedDict takes nothing, or one list of pairs as Python 2 wrote it.
func (u *unpickler) orderedDict(args []any) (any, error) {
	d := &dict{}
	if len(args) == 0 {
		return d, nil
	}
	pairs, ok := args[0].(*list)
	if !ok || len(args) > 1 {
		return nil, fmt.Errorf("called with %d arguments, the first of kind %s", len(args), kind(args[0]))
	}
	if u.pairs -= len(pairs.items); u.pairs < 0 {
		return nil, fmt.Errorf("called with more items than the pickle holds")
	}
	for _, pair := range pairs.items {
		var items []any
		switch p := pair.(type) {
		case *list:
			items = p.items
		case *tuple:
			items = p.items
		}
		if len(items) != 2 {
			return nil, fmt.Errorf("an item is not a pair")
		}
		if err := d.set(items[0], items[1]); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// buildTensor takes storage, offset, size, stride and, in version 2, requires_grad and hooks, which are ignored.
func buildTensor(args []any) (any, error) {
	if len(args) < 4 {
		return nil, fmt.Errorf("called with %d arguments", len(args))
	}
	storage, ok1 := args[0].(storageRef)
	offset, ok2 := args[1].(int64)
	shape, ok3 := integersOf(args[2])
	stride, ok4 := integersOf(args[3])
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return nil, fmt.Errorf("called with %s, %s, %s, %s", kind(args[0]), kind(args[1]), kind(args[2]), kind(args[3]))
	}
	t := tensorRef{storage, offset, shape, stride}
	return t, t.check()
}

func integersOf(v any) ([]int64, bool) {
	t, ok := v.(*tuple)
	if !ok || len(t.items) > maxDims {
		return nil, false
	}
	out := make([]int64, len(t.items))
	for i, item := range t.items {
		if out[i], ok = item.(int64); !ok {
			return nil, false
		}
	}
	return out, true
}

// check proves that the view lies within its storage and is not larger than it.
func (t tensorRef) check() error {
	size, err := dataBytes(t.shape, t.storage.dtype)
	if err != nil {
		return err
	}
	if len(t.shape) != len(t.stride) || t.offset < 0 || t.offset > t.storage.numel {
		return fmt.Errorf("shape %v, strides %v, offset %d do not belong together", t.shape, t.stride, t.offset)
	}
	n := size / int64(t.storage.dtype.Size())
	if n == 0 {
		return nil
	}
	last := t.offset
	for i, s := range t.shape {
		if t.stride[i] < 0 || s > 1 && t.stride[i] > (t.storage.numel-last)/(s-1) {
			return fmt.Errorf("strides %v of shape %v leave the storage of %d elements", t.stride, t.shape, t.storage.numel)
		}
		if s > 1 {
			last += (s - 1) * t.stride[i]
		}
	}
	if last >= t.storage.numel || n > t.storage.numel {
		return fmt.Errorf("shape %v, strides %v, offset %d leave the storage of %d elements (an expanded tensor? save it with .contiguous())", t.shape, t.stride, t.offset, t.storage.numel)
	}
	return nil
}

// storageOf reads ('storage', type, key, location, elements[, view]); the location (cpu, cuda:0) does not matter.
func storageOf(id any) (storageRef, error) {
	t, ok := id.(*tuple)
	if !ok || len(t.items) < 5 || t.items[0] != "storage" {
		return storageRef{}, fmt.Errorf("a reference of kind %s is not one to a storage", kind(id))
	}
	g, ok1 := t.items[1].(global)
	key, ok2 := t.items[2].(string)
	numel, ok3 := t.items[4].(int64)
	dtype, ok4 := storageType(g)
	if !ok1 || !ok2 || !ok3 || !ok4 || numel < 0 {
		return storageRef{}, fmt.Errorf("a reference to a storage of kind %s is not read here", kind(t.items[1]))
	}
	if len(t.items) > 5 && t.items[5] != nil {
		return storageRef{}, fmt.Errorf("a storage that is a view of another is not read here: save the file again with a newer PyTorch")
	}
	if _, err := dataBytes([]int64{numel}, dtype); err != nil {
		return storageRef{}, err
	}
	return storageRef{key, dtype, numel}, nil
}

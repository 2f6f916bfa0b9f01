package checkpoint

import "fmt"

// Values on the stack: nil, bool, int64, float64, string, []byte, *list, *tuple, *dict, global, storageRef, tensorRef.
type (
	list  struct{ items []any }
	tuple struct{ items []any }
	// global is an imported name from the list in globals.go.
	global struct{ module, name string }
	// bigInt is an integer of more than 64 bits, little-endian two's complement: the legacy format's magic number.
	bigInt string
)

// dict keeps insertion order, as Python's does.
type dict struct {
	keys   []any // nil, bool, int64 or string
	values []any
	index  map[any]int
}

func (d *dict) set(key, value any) error {
	switch key.(type) {
	case nil, bool, int64, string:
	default:
		return fmt.Errorf("a dictionary key of kind %s is not read here", kind(key))
	}
	if i, ok := d.index[key]; ok {
		d.values[i] = value
		return nil
	}
	if d.index == nil {
		d.index = map[any]int{}
	}
	d.index[key] = len(d.keys)
	d.keys, d.values = append(d.keys, key), append(d.values, value)
	return nil
}

// get returns the value of key, nil when it is absent or None.
func (d *dict) get(key any) any {
	if i, ok := d.index[key]; ok {
		return d.values[i]
	}
	return nil
}

// kind names a value's type as Python would, for messages.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int64, bigInt:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case []byte:
		return "bytes"
	case *list:
		return "list"
	case *tuple:
		return "tuple"
	case *dict:
		return "dict"
	case global:
		return v.module + "." + v.name
	case storageRef:
		return "storage"
	case tensorRef:
		return "tensor"
	}
	return fmt.Sprintf("%T", v)
}

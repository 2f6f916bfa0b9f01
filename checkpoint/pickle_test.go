package checkpoint

import (
	"errors"
	"strings"
	"testing"
)

func TestUnpickleValues(t *testing.T) {
	// Protocol 5 of {"a": [1, -2, 2.5, None, True, b"xy", (3,)], 7: 1 << 40, "self": <the list>}.
	const program = "\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffG\x40\x04\x00\x00\x00\x00\x00\x00N\x88C\x02xyK\x03\x85eK\x07\x8a\x06\x00\x00\x00\x00\x00\x01\x8c\x04selfh\x02u."
	v, n, err := unpickle([]byte(program + "rest"))
	if err != nil {
		t.Fatal(err)
	}
	d := v.(*dict)
	l := d.get("a").(*list)
	if n != len(program) || len(d.keys) != 3 || d.get("self") != any(l) || d.get(int64(7)) != int64(1<<40) {
		t.Errorf("got %d bytes, %v", n, d)
	}
	want := []any{int64(1), int64(-2), 2.5, nil, true}
	for i, w := range want {
		if l.items[i] != w {
			t.Errorf("item %d: got %v, want %v", i, l.items[i], w)
		}
	}
	if string(l.items[5].([]byte)) != "xy" || l.items[6].(*tuple).items[0] != int64(3) {
		t.Errorf("got %v", l.items[5:])
	}
	for text, want := range map[string]any{
		"\x8a\x01\xff.": int64(-1), "\x8a\x00.": int64(0), "\x8a\x02\x00\x80.": int64(-32768), "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f.": int64(1<<63 - 1),
		"\x8b\x09\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01.": bigInt("\x00\x00\x00\x00\x00\x00\x00\x00\x01"),
		"M\x00\xff.": int64(0xff00), "U\x01x.": "x", "]0N.": nil,
	} {
		if got, _, err := unpickle([]byte("\x80\x02" + text)); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestUnpickleRefuses(t *testing.T) {
	storage := "(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
	tensor := func(rest string) string {
		return "ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + "tR."
	}
	for _, c := range []struct{ what, want, text string }{
		{"program", `"system" from Python's "os"`, "cos\nsystem\n(X\x04\x00\x00\x00truetR."},
		{"program on the stack", `"eval" from Python's "builtins"`, "X\x08\x00\x00\x00builtinsX\x04\x00\x00\x00eval\x93."},
		{"near name", `"FloatStorage2"`, "ctorch\nFloatStorage2\n."},
		{"other module", `"numpy"`, "cnumpy\nFloatStorage\n."},
		{"call of a type", "does not take", "ctorch\nFloatStorage\n)R."},
		{"call of a text", "call of str", "X\x01\x00\x00\x00a)R."},
		{"instance", "0x69", "(ios\nsystem\n."},
		{"protocol 0", "0x49", "I1\n."},
		{"protocol 9", "protocol 9", "\x80\x09N."},
		{"extension", "0x82", "\x82\x01."},
		{"attributes of a list", "attributes of list", "]Nb."},
		{"append to a dict", "append to dict", "}Na."},
		{"odd items", "set 1 keys", "}(Nu."},
		{"list as a key", "key of kind list", "}]Ns."},
		{"empty stack", "empty", "0."},
		{"nothing", "ends with 0 values", "."},
		{"two values", "ends with 2 values", "NN."},
		{"open mark", "ends with 1 values", "N(."},
		{"pop below a mark", "empty", "N(0."},
		{"tuple below a mark", "fewer than 1", "N(\x85."},
		{"no mark", "no mark", "t."},
		{"memo", "memo 3", "h\x03."},
		{"no end", "cut short", "N"},
		{"cut text", "cut short", "X\xff\xff\xff\xffa"},
		{"text of 2^63", "cut short", "\x8d\xff\xff\xff\xff\xff\xff\xff\xffa"},
		{"not UTF-8", "UTF-8", "X\x01\x00\x00\x00\xff."},
		{"wide integer", "65 bytes", "\x8a\x41" + strings.Repeat("a", 65) + "."},
		{"deep", "nested", strings.Repeat("(", maxNested+1)},
		{"outside", "leave the storage", tensor("K\x00K\x05\x85K\x01\x85")},
		{"outside by offset", "leave the storage", tensor("K\x01K\x04\x85K\x01\x85")},
		{"outside by stride", "leave the storage", tensor("K\x00K\x02\x85K\x04\x85")},
		{"expanded", "contiguous()", tensor("K\x00K\x05\x85K\x00\x85")},
		{"overflowing stride", "leave the storage", tensor("K\x00K\x03\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85")},
		{"overflowing shape", "overflows", tensor("K\x00\x8a\x05\x00\x00\x00\x00\x01\x8a\x05\x00\x00\x00\x00\x01\x86K\x00K\x00\x86")},
		{"negative offset", "belong together", tensor("J\xff\xff\xff\xffK\x01\x85K\x01\x85")},
		{"negative stride", "leave the storage", tensor("K\x03K\x02\x85J\xff\xff\xff\xff\x85")},
		{"ranks differ", "belong together", tensor("K\x00K\x02\x85)")},
		{"no storage", "_rebuild_tensor_v2: called", "ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR."},
		{"reference", "not one to a storage", "NQ."},
		{"unread storage", "QInt8Storage", "(X\x07\x00\x00\x00storagectorch\nQInt8Storage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ."},
	} {
		_, _, err := unpickle([]byte("\x80\x02" + c.text))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want ErrFormat with %q", c.what, err, c.want)
		}
	}
	if _, _, err := unpickle(make([]byte, maxPickle+1)); !errors.Is(err, ErrFormat) {
		t.Errorf("too long: got %v, want ErrFormat", err)
	}
	// A list given to OrderedDict again and again would take quadratic time.
	pairs := "](" + strings.Repeat("NK\x01\x86", 1000) + "eq\x000"
	if _, _, err := unpickle([]byte("\x80\x02" + pairs + strings.Repeat("ccollections\nOrderedDict\nh\x00\x85R0", 1000) + "N.")); !errors.Is(err, ErrFormat) {
		t.Errorf("shared list: got %v, want ErrFormat", err)
	}
}

// Views that are not contiguous are copied; a small file must not make many large copies of one storage.
func TestViewsAreBounded(t *testing.T) {
	text := "\x80\x02}("
	for i := range 100 {
		text += "X\x02\x00\x00\x00" + string([]byte{'a' + byte(i/26), 'a' + byte(i%26)}) +
			"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nByteStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\x00\x00\x10\x00tQ" +
			"K\x00J\x00\x04\x00\x00J\x00\x04\x00\x00\x86K\x01J\x00\x04\x00\x00\x86tR"
	}
	b := zipOf(t, map[string]string{"a/data.pkl": text + "u.", "a/data/0": strings.Repeat("x", 1<<20)})
	if _, err := decodeFile(strings.NewReader(string(b)), int64(len(b))); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "many times") {
		t.Errorf("got %v, want ErrFormat about many copies", err)
	}
}

package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// A pickle is a program for a stack machine. unpickle runs the subset (protocols 2 to 5) that files of tensors use:
// its values are inert Go data, names that the file imports are looked up in a fixed list, and calling one only builds
// such data. Anything else is an error that names it. Memory and time are linear in the size of the pickle.

// Bounds. A checkpoint of a model with a thousand tensors and its optimizer stays below a hundredth of each.
const (
	maxPickle = 8 << 20 // bytes
	maxStack  = 1 << 20 // values on the stack, and memo entries
	maxNested = 1000    // open marks: the nesting of containers under construction
)

type unpickler struct {
	in    []byte
	at    int
	stack []any
	marks []int // positions of open marks in stack
	memo  map[uint64]any
	pairs int // items that OrderedDict may still be given as lists, which can be shared: this keeps time linear
}

// unpickle runs the pickle at the start of in and returns its value and the bytes it took. Errors match ErrFormat.
func unpickle(in []byte) (value any, size int, err error) {
	u := unpickler{in: in, memo: map[uint64]any{}, pairs: len(in)}
	if len(in) > maxPickle {
		return nil, 0, malformed("a pickle of %d bytes exceeds %d", len(in), maxPickle)
	}
	for {
		start := u.at
		op, err := u.byte()
		done := false
		if err == nil {
			done, err = u.step(op)
		}
		if err != nil {
			return nil, 0, malformed("pickle, byte %d: %w", start, err)
		}
		if done {
			return u.stack[0], u.at, nil
		}
		if len(u.stack) > maxStack || len(u.memo) > maxStack || len(u.marks) > maxNested {
			return nil, 0, malformed("pickle, byte %d: more than %d values or %d nested containers", start, maxStack, maxNested)
		}
	}
}

// step executes one instruction; done means STOP with one value on the stack. The letters are the opcodes of Python's
// pickletools.
func (u *unpickler) step(op byte) (done bool, err error) {
	switch op {
	case 0x80: // PROTO
		version, err := u.byte()
		if err == nil && (version < 2 || version > 5) {
			err = fmt.Errorf("pickle protocol %d is not read here (2 to 5 are)", version)
		}
		return false, err
	case 0x95: // FRAME: the length is only a hint for buffering
		_, err = u.take(8)
	case '.': // STOP
		if len(u.stack) != 1 || len(u.marks) != 0 {
			return false, fmt.Errorf("the pickle ends with %d values", len(u.stack))
		}
		return true, nil
	case '(': // MARK
		u.marks = append(u.marks, len(u.stack))
	case '0': // POP
		_, err = u.pop()
	case '1': // POP_MARK
		_, err = u.popMark()
	case '2': // DUP
		var top any
		if top, err = u.top(); err == nil {
			u.push(top)
		}
	case ']', '}', ')', 'l', 'd', 't', 0x85, 0x86, 0x87, 'a', 'e', 's', 'u':
		err = u.container(op)
	case 'q', 'r', 0x94, 'h', 'j':
		err = u.memoise(op)
	case 'c', 0x93, 'R', 'b', 0x81, 'Q':
		err = u.object(op)
	default:
		var v any
		if v, err = u.constant(op); err == nil {
			u.push(v)
		}
	}
	return false, err
}

// constant reads the instructions that push a literal.
func (u *unpickler) constant(op byte) (any, error) {
	switch op {
	case 'N': // NONE
		return nil, nil
	case 0x88: // NEWTRUE
		return true, nil
	case 0x89: // NEWFALSE
		return false, nil
	case 'K': // BININT1
		b, err := u.byte()
		return int64(b), err
	case 'M': // BININT2
		n, err := u.uint(2)
		return int64(n), err
	case 'J': // BININT
		n, err := u.uint(4)
		return int64(int32(uint32(n))), err
	case 0x8a: // LONG1
		return u.long(1)
	case 0x8b: // LONG4
		return u.long(4)
	case 'G': // BINFLOAT, big-endian
		b, err := u.take(8)
		if err != nil {
			return nil, err
		}
		return math.Float64frombits(binary.BigEndian.Uint64(b)), nil
	case 0x8c: // SHORT_BINUNICODE
		return u.text(1)
	case 'X': // BINUNICODE
		return u.text(4)
	case 0x8d: // BINUNICODE8
		return u.text(8)
	case 'U': // SHORT_BINSTRING, which Python 2 wrote for str
		return u.text(1)
	case 'T': // BINSTRING
		return u.text(4)
	case 'C': // SHORT_BINBYTES
		return u.counted(1)
	case 'B': // BINBYTES
		return u.counted(4)
	case 0x8e: // BINBYTES8
		return u.counted(8)
	}
	return nil, fmt.Errorf("instruction 0x%02x is not used by files of tensors and is not read here", op)
}

// container builds and fills lists, tuples and dictionaries.
func (u *unpickler) container(op byte) error {
	switch op {
	case ']': // EMPTY_LIST
		u.push(&list{})
	case '}': // EMPTY_DICT
		u.push(&dict{})
	case ')': // EMPTY_TUPLE
		u.push(&tuple{})
	case 0x85, 0x86, 0x87: // TUPLE1, TUPLE2, TUPLE3
		items, err := u.popN(int(op - 0x84))
		if err != nil {
			return err
		}
		u.push(&tuple{items})
	case 'a': // APPEND
		items, err := u.popN(1)
		if err != nil {
			return err
		}
		return u.extend(items)
	case 's': // SETITEM
		items, err := u.popN(2)
		if err != nil {
			return err
		}
		return u.setItems(items)
	default: // LIST, DICT, TUPLE, APPENDS, SETITEMS: everything since the mark
		items, err := u.popMark()
		if err != nil {
			return err
		}
		switch op {
		case 'l':
			u.push(&list{items})
		case 't':
			u.push(&tuple{items})
		case 'd':
			u.push(&dict{})
			return u.setItems(items)
		case 'e':
			return u.extend(items)
		default:
			return u.setItems(items)
		}
	}
	return nil
}

func (u *unpickler) extend(items []any) error {
	top, err := u.top()
	if err != nil {
		return err
	}
	l, ok := top.(*list)
	if !ok {
		return fmt.Errorf("append to %s", kind(top))
	}
	l.items = append(l.items, items...)
	return nil
}

func (u *unpickler) setItems(items []any) error {
	top, err := u.top()
	if err != nil {
		return err
	}
	d, ok := top.(*dict)
	if !ok || len(items)%2 != 0 {
		return fmt.Errorf("set %d keys and values in %s", len(items), kind(top))
	}
	for i := 0; i < len(items); i += 2 {
		if err := d.set(items[i], items[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// memoise stores the top of the stack under a number, or pushes what is stored. Shared values are shared, not copied.
func (u *unpickler) memoise(op byte) error {
	var n uint64
	var err error
	switch op {
	case 'q', 'h': // BINPUT, BINGET
		n, err = u.uint(1)
	case 'r', 'j': // LONG_BINPUT, LONG_BINGET
		n, err = u.uint(4)
	case 0x94: // MEMOIZE
		n = uint64(len(u.memo))
	}
	if err != nil {
		return err
	}
	if op == 'h' || op == 'j' {
		v, ok := u.memo[n]
		if !ok {
			return fmt.Errorf("memo %d is read before it is written", n)
		}
		u.push(v)
		return nil
	}
	top, err := u.top()
	if err == nil {
		u.memo[n] = top
	}
	return err
}

func (u *unpickler) push(v any) { u.stack = append(u.stack, v) }

// floor is the lowest position that may be popped: values below an open mark belong to it.
func (u *unpickler) floor() int {
	if len(u.marks) == 0 {
		return 0
	}
	return u.marks[len(u.marks)-1]
}

func (u *unpickler) top() (any, error) {
	if len(u.stack) <= u.floor() {
		return nil, fmt.Errorf("the stack is empty")
	}
	return u.stack[len(u.stack)-1], nil
}

func (u *unpickler) pop() (any, error) {
	v, err := u.top()
	if err == nil {
		u.stack = u.stack[:len(u.stack)-1]
	}
	return v, err
}

// popN removes the n uppermost values and returns a copy of them, lowest first.
func (u *unpickler) popN(n int) ([]any, error) {
	from := len(u.stack) - n
	if from < u.floor() {
		return nil, fmt.Errorf("the stack holds fewer than %d values", n)
	}
	items := append([]any(nil), u.stack[from:]...)
	u.stack = u.stack[:from]
	return items, nil
}

func (u *unpickler) popMark() ([]any, error) {
	if len(u.marks) == 0 {
		return nil, fmt.Errorf("there is no mark")
	}
	items, err := u.popN(len(u.stack) - u.floor())
	u.marks = u.marks[:len(u.marks)-1]
	return items, err
}

func (u *unpickler) byte() (byte, error) {
	b, err := u.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// take returns the next n bytes of the pickle, without copying.
func (u *unpickler) take(n uint64) ([]byte, error) {
	if n > uint64(len(u.in)-u.at) {
		return nil, fmt.Errorf("the pickle is cut short: %d bytes wanted, %d left", n, len(u.in)-u.at)
	}
	b := u.in[u.at : u.at+int(n)]
	u.at += int(n)
	return b, nil
}

// uint reads a little-endian unsigned number of 1 to 8 bytes.
func (u *unpickler) uint(bytes uint64) (uint64, error) {
	b, err := u.take(bytes)
	var n uint64
	for i, x := range b {
		n |= uint64(x) << (8 * i)
	}
	return n, err
}

func (u *unpickler) counted(lengthBytes uint64) ([]byte, error) {
	n, err := u.uint(lengthBytes)
	if err != nil {
		return nil, err
	}
	return u.take(n)
}

func (u *unpickler) text(lengthBytes uint64) (string, error) {
	b, err := u.counted(lengthBytes)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(b) {
		return "", fmt.Errorf("a text is not UTF-8")
	}
	return string(b), nil
}

// long reads a little-endian two's complement number.
func (u *unpickler) long(lengthBytes uint64) (any, error) {
	b, err := u.counted(lengthBytes)
	if err != nil {
		return nil, err
	}
	if len(b) > 64 {
		return nil, fmt.Errorf("an integer of %d bytes", len(b))
	}
	if len(b) > 8 {
		return bigInt(b), nil
	}
	var n uint64
	for i, x := range b {
		n |= uint64(x) << (8 * i)
	}
	if shift := 64 - 8*len(b); len(b) > 0 {
		return int64(n<<shift) >> shift, nil
	}
	return int64(0), nil
}

package mppb

import (
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Whatever changes between two views, what is sent of the second and the first give the second.
func TestAViewIsTheOneBeforeAndWhatChanged(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	view := func(number uint64) *View {
		v := &View{Number: number, Job: []string{"job-1", "job-2"}[random.IntN(8)/7], Reason: "for a reason", Directory: "run"}
		v.Spec = []byte(`{"name":"` + v.Job + `"}`)
		for _, id := range random.Perm(6)[:random.IntN(7)] {
			v.Members = append(v.Members, &Member{Worker: uint64(id + 1), Name: "worker", Address: "a:1", Shards: make([]uint32, random.IntN(2))})
		}
		return v
	}
	before := view(1)
	for i := range 1000 {
		v := view(uint64(i + 2))
		text, err := proto.Marshal(v.Since(before))
		if err != nil {
			t.Fatal(err)
		}
		d := &View{}
		if err := proto.Unmarshal(text, d); err != nil {
			t.Fatal(err)
		}
		got, err := d.After(before)
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, v) {
			t.Fatalf("got %v, want %v", got, v)
		}
		before = v
	}
}

// Every field of a view comes through, also those that are added later.
func TestNothingOfAViewIsLeftOut(t *testing.T) {
	v := &View{}
	m := v.ProtoReflect()
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		switch {
		case f.Name() == "base" || f.Name() == "ranks" || f.IsList():
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString("text"))
		case f.Kind() == protoreflect.BytesKind:
			m.Set(f, protoreflect.ValueOfBytes([]byte("bytes")))
		case f.Kind() == protoreflect.Uint64Kind:
			m.Set(f, protoreflect.ValueOfUint64(7))
		case f.Kind() == protoreflect.Uint32Kind:
			m.Set(f, protoreflect.ValueOfUint32(7))
		case f.Kind() == protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(true))
		default:
			t.Fatalf("this test does not know fields like %s", f.Name())
		}
	}
	v.Members = []*Member{{Worker: 3}}
	for _, before := range []*View{{Number: 1}, {Number: 1, Job: v.Job, Spec: v.Spec, Members: v.Members}} {
		if got, err := v.Since(before).After(before); err != nil || !proto.Equal(got, v) {
			t.Errorf("got %v, %v; want %v", got, err, v)
		}
	}
}

func TestAViewThatDoesNotFollowIsRefused(t *testing.T) {
	d := (&View{Number: 3, Members: []*Member{{Worker: 1}}}).Since(&View{Number: 2, Members: []*Member{{Worker: 1}}})
	for _, before := range []*View{nil, {Number: 1}, {Number: 2}} {
		if got, err := d.After(before); err == nil || !strings.Contains(err.Error(), "view 3") {
			t.Errorf("after %v: got %v, %v; want an error", before, got, err)
		}
	}
}

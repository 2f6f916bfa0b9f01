package worker

import (
	"bytes"
	"context"
	"testing"

	"mp/data"
	"mp/ops"
)

// Whoever makes a batch's images of its records, the loader or the device, the network sees the same.
func TestImagesAreTheSameInEveryForm(t *testing.T) {
	p := packs(t)
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	recipe, err := data.NewRecipe("strong")
	if err != nil {
		t.Fatal(err)
	}
	sampler, err := data.NewSampler(1, p[0].Len(), 8, true)
	if err != nil {
		t.Fatal(err)
	}
	seen := func(form data.Form) []byte {
		l, err := data.NewLoader(data.LoaderConfig{Images: p[0], Sampler: sampler, Recipe: recipe, Epochs: 1, BFloat16: true, ChannelsLast: true, Form: form})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var all []byte
		for range 2 {
			b, err := l.Next(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			err = device.Do(context.Background(), func(s *ops.Scope) error {
				memory, err := ops.Bytes(images(s, b))
				all = append(all, memory...)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		}
		return all
	}
	want := seen(data.Finished)
	for _, form := range []data.Form{data.Raw, data.Ordered} {
		if got := seen(form); len(want) == 0 || !bytes.Equal(got, want) {
			t.Errorf("form %d: other images than finished ones", form)
		}
	}
}

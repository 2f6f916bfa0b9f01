package allreduce

// Source reads vectors where they are: all shards' of one member, in Terms.Shards' order. Its bits are those of the plain Kernels.
// An error leaves the group broken.
type Source interface {
	// Exponents raises exponents, one a block, to those of elements lo to hi of all vectors; lo is a multiple of Block.
	Exponents(exponents []byte, lo, hi int) error
	// Quantize sets q to the sum of the integers that the vectors' elements from lo on are; lo is a multiple of Block, and no
	// exponent is 255.
	Quantize(q []int32, exponents []byte, lo, bits int) error
	// Vector returns vector i, which has a value that is no number.
	Vector(i int) ([]float32, error)
}

// here is the Source of vectors in this process's memory.
type here struct{ *Terms }

func (h here) Exponents(exponents []byte, lo, hi int) error {
	for _, v := range h.Vectors {
		h.Kernels.Exponents(exponents, v[lo:hi])
	}
	return nil
}

// Quantize goes through few enough elements at a time that they stay in a cache from vector to vector.
func (h here) Quantize(q []int32, exponents []byte, lo, bits int) error {
	if len(h.Vectors) == 0 {
		clear(q)
	}
	for at := 0; at < len(q); at += stride {
		part := q[at:min(at+stride, len(q))]
		e := exponents[at/Block:][:blocks(len(part))]
		for i, v := range h.Vectors {
			h.Kernels.Quantize(part, v[lo+at:][:len(part)], e, bits, i > 0)
		}
	}
	return nil
}

func (h here) Vector(i int) ([]float32, error) { return h.Vectors[i], nil }

package data

import "sort"

// Labelled is what HoldOut looks at: a Pack.
type Labelled interface {
	Len() int
	Classes() []string
	// Label returns the class of image i, -1 where it is unknown.
	Label(i int) int
}

// HoldOut returns the n images, in ascending order, that a run which never trains on n of them leaves out: the list is cut
// into n stretches of equal length, and of each the image with the smallest Fingerprint is held out. So they are a function
// of the two numbers alone, which a coordinator has who knows no labels, and yet a list sorted by class, as MiniPlaces' is,
// gives each class its share: 500 of 100,000 images of 100 classes are five of each. Of a list in any other order they are
// a sample drawn by chance. nil where n is 0. The error is ErrData when more than half of all images or a whole class would be
// held out.
func HoldOut(images Labelled, n int) ([]int32, error) {
	size := images.Len()
	if n < 0 || n > size/2 {
		return nil, badf("hold %d of %d training images out: at least half must be left to train on; choose at most %d", n, size, size/2)
	}
	if n == 0 {
		return nil, nil
	}
	held, classes := heldOut(size, n), images.Classes()
	of, gone := make([]int, len(classes)), make([]int, len(classes))
	for i := range size {
		if label := images.Label(i); label >= 0 && label < len(classes) {
			of[label]++
		}
	}
	for _, id := range held {
		if label := images.Label(int(id)); label >= 0 && label < len(classes) {
			if gone[label]++; gone[label] == of[label] {
				return nil, badf("hold %d of %d training images out: they are all that class %s has, %d; choose fewer, or add images to the class",
					n, size, classes[label], of[label])
			}
		}
	}
	return held, nil
}

// heldOut is HoldOut without its checks, for 0 <= n <= size.
func heldOut(size, n int) []int32 {
	held := make([]int32, n)
	for k := range held {
		first, end := int32(k*size/n), int32((k+1)*size/n)
		held[k] = first
		for id := first + 1; id < end; id++ {
			if Fingerprint(id) < Fingerprint(held[k]) {
				held[k] = id
			}
		}
	}
	return held
}

// kept is the image at place i among those of a list that are not held out. held is ascending.
func kept(held []int32, i int32) int32 {
	// held[k]-k images that are kept lie below held[k].
	below := sort.Search(len(held), func(k int) bool { return held[k]-int32(k) > i })
	return i + int32(below)
}

package job

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizeRange is the side of the training images in the epochs first to last, both included.
type sizeRange struct {
	size, first, last int
}

// Sizes is the side of the training images by epoch: progressive resizing.
type Sizes []sizeRange

// ParseSizes reads an image size: one side in pixels for all epochs ("128"), or ranges of epochs counted from 0 that
// follow each other, the last one open ("96:0-15,128:16-").
func ParseSizes(text string) (Sizes, error) {
	if size, err := strconv.Atoi(text); err == nil {
		return Sizes{{size, 0, math.MaxInt}}.checked(text)
	}
	var sizes Sizes
	for part := range strings.SplitSeq(text, ",") {
		side, epochs, hasEpochs := strings.Cut(strings.TrimSpace(part), ":")
		from, to, isRange := strings.Cut(epochs, "-")
		r := sizeRange{last: math.MaxInt}
		var err error
		if r.size, err = strconv.Atoi(side); err == nil {
			r.first, err = strconv.Atoi(from)
		}
		if err == nil && to != "" {
			r.last, err = strconv.Atoi(to)
		}
		if err != nil || !hasEpochs || !isRange {
			return nil, fmt.Errorf("image-size %q: want 128, or ranges of epochs such as 96:0-15,128:16-", text)
		}
		sizes = append(sizes, r)
	}
	return sizes.checked(text)
}

// checked says whether the ranges cover every epoch once and the sizes can be trained on.
func (s Sizes) checked(text string) (Sizes, error) {
	next := 0
	for i, r := range s {
		switch {
		case r.size < 32 || r.size > 256:
			return nil, fmt.Errorf("image-size %q: %d pixels: choose 32 to 256", text, r.size)
		case r.first != next:
			return nil, fmt.Errorf("image-size %q: the range of %d pixels begins at epoch %d: begin at %d", text, r.size, r.first, next)
		case r.last < r.first:
			return nil, fmt.Errorf("image-size %q: the range of %d pixels ends before it begins", text, r.size)
		case r.last == math.MaxInt && i < len(s)-1:
			return nil, fmt.Errorf("image-size %q: the range of %d pixels has no end: only the last one may be open", text, r.size)
		}
		next = r.last + 1
	}
	if next > 0 {
		return nil, fmt.Errorf("image-size %q: leave the last range open: %d:%d-", text, s[len(s)-1].size, s[len(s)-1].first)
	}
	return s, nil
}

// At is the side of the training images in an epoch, counted from 0, in pixels.
func (s Sizes) At(epoch int) int {
	for _, r := range s {
		if epoch <= r.last {
			return r.size
		}
	}
	panic("job: Sizes not made by ParseSizes")
}

// Max is the largest side, in pixels: what memory must be enough for.
func (s Sizes) Max() int {
	most := 0
	for _, r := range s {
		most = max(most, r.size)
	}
	return most
}

package checkpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sort"
)

// Digest is the fingerprint of a model: the SHA-256, in hexadecimal, of its tensors in name order, each as the line
// "LENGTH-OF-NAME NAME DTYPE SHAPE\n" (17 features.0.weight F32 [64 3 7 7]) followed by its data. Two runs ended with
// the same bits exactly when their digests are equal, whatever file holds the weights.
func Digest(tensors []Tensor) string {
	order := make([]int, len(tensors))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(i, j int) bool { return tensors[order[i]].Name < tensors[order[j]].Name })
	h := sha256.New()
	for _, i := range order {
		t := tensors[i]
		fmt.Fprintf(h, "%d %s %v %d\n", len(t.Name), t.Name, t.DType, t.Shape)
		h.Write(t.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

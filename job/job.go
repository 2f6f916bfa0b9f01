// Package job says what a run is: its options, the defaults of each recipe, what contradicts what, and how a run looks
// before it starts. It does no I/O and must never import another package of the module, so that a coordinator and a
// worker can share it. Start reading at Spec.
package job

import "errors"

// ErrConfig is in the chain of every error about a run that cannot be as it was asked for. Trying again does not help.
var ErrConfig = errors.New("bad configuration")

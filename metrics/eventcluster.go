package metrics

// Worker is how one worker has done since its last event of this kind; means over the steps since.
type Worker struct {
	Worker          uint64  `json:"worker"` // identity
	Name            string  `json:"name"`   // for people
	View            uint64  `json:"view"`
	Update          int     `json:"update"`
	Shards          []int   `json:"shards"`
	ShardSeconds    float64 `json:"shard_seconds"`     // to compute one shard
	ImagesPerSecond float64 `json:"images_per_second"` // of this worker alone
	MemoryBytes     int64   `json:"memory_bytes"`
	ArrivalSkew     float64 `json:"arrival_skew"`   // seconds that the ring waited for this worker in a step
	ReduceSeconds   float64 `json:"reduce_seconds"` // of a step, spent summing
	ReduceHidden    float64 `json:"reduce_hidden"`  // share of ReduceSeconds that ran while shards were computed, 0 to 1
	GPU             *GPU    `json:"gpu,omitempty"`  // nil: it has none, or its driver does not say
}

// GPU is how a worker's GPU is used by all processes together, as its driver says.
type GPU struct {
	Busy       *float64 `json:"busy,omitempty"` // share of the last fraction of a second in which something was computed, 0 to 1; nil: not said
	UsedBytes  int64    `json:"used_bytes"`
	TotalBytes int64    `json:"total_bytes"`
}

// View is a numbered list of workers. It is emitted when it replaces another, and once more, with RecoverSeconds, when its
// first update after a fault is committed.
type View struct {
	Number         uint64       `json:"number"`
	Members        []ViewMember `json:"members"` // in rank order; empty: nobody computes; null: not known any more
	Reason         string       `json:"reason"`  // one line that names the first cause
	Advice         string       `json:"advice,omitempty"`
	Update         int          `json:"update"`                    // committed before it, or with RecoverSeconds the one that it committed
	DetectSeconds  float64      `json:"detect_seconds,omitempty"`  // from the last sign of life to the notice; 0 without a fault
	RecoverSeconds float64      `json:"recover_seconds,omitempty"` // from the notice to the next committed update; 0 until known
	Warning        bool         `json:"warning,omitempty"`         // it answers a fault
}

// ViewMember is a worker of a view.
type ViewMember struct {
	Worker uint64 `json:"worker"`
	Name   string `json:"name"`
	Shards []int  `json:"shards"`
}

// Fault is something that broke or is about to: a worker that is slow, stuck, quarantined or gone.
type Fault struct {
	Worker        uint64  `json:"worker,omitempty"` // 0: no worker's
	Text          string  `json:"text"`
	Advice        string  `json:"advice,omitempty"`
	View          uint64  `json:"view,omitempty"` // number of the view that answers it and tells people the same; 0: none does
	DetectSeconds float64 `json:"detect_seconds,omitempty"`
}

// Leader says which coordinator leads.
type Leader struct {
	ID       string  `json:"id"`
	Address  string  `json:"address"`
	Previous string  `json:"previous,omitempty"` // who led before; empty: nobody since the cluster began
	Term     uint64  `json:"term"`
	Seconds  float64 `json:"seconds"` // that nobody led
}

// GoodputReport is what faults have cost a run so far; Goodput says how each figure is made. Seconds; medians and 99th
// percentiles are 0 when nothing has been measured.
type GoodputReport struct {
	Share          float64 `json:"share"`           // UsefulSeconds / WallSeconds, 0 to 1
	CommittedSteps int     `json:"committed_steps"` // each update counts once
	StepSeconds    float64 `json:"step_seconds"`    // of an undisturbed step, median
	UsefulSeconds  float64 `json:"useful_seconds"`  // CommittedSteps at that speed
	WallSeconds    float64 `json:"wall_seconds"`
	Faults         int     `json:"faults"`
	DetectMedian   float64 `json:"detect_median"`
	DetectP99      float64 `json:"detect_p99"`
	RecoverMedian  float64 `json:"recover_median"`
	RecoverP99     float64 `json:"recover_p99"`
}

package membership

// Book is what a job's ledger keeps: the epochs proven whole as a number, the others in detail. Its size does not grow with
// the number of epochs.
type Book struct {
	First  uint32 `json:"first,omitempty"` // epoch in which the job began (it may resume another's checkpoint)
	Proven uint32 `json:"proven"`          // epochs First..Proven-1 are whole, without a sample missing or repeated
	Open   []Page `json:"open,omitempty"`  // the others of which something is known, in order
}

// Page is one epoch that is not proven.
type Page struct {
	Epoch uint32        `json:"epoch"`
	Parts []LedgerEntry `json:"parts"` // disjoint, ascending unless samples were repeated
}

// Ledger is the proof of one epoch; see mppb.Ledger.
type Ledger struct {
	Epoch          uint32
	Images         uint64
	ExpectedImages uint64 // of the updates done; of a whole epoch: all
	Missing        uint64
	Repeated       uint64
	Hash           uint64
	ExpectedHash   uint64 // of a whole epoch
	Whole          bool   // the epoch has ended
}

package worker

import (
	"mp/mppb"
)

// ledgerEntry counts the samples that the updates [From, To) of an epoch consumed, From being the epoch's first.
type ledgerEntry struct {
	Epoch    int
	From, To int
	Images   uint64
	Hash     uint64

	// Where the job has a watchdog:
	Top1    uint64 `json:",omitempty"` // images that were right in training, under its attack
	Watched uint64 `json:",omitempty"` // images held out, which the watchdog attacked after the epoch
	Clean   uint64 `json:",omitempty"` // of them, those that were right unattacked
	Robust  uint64 `json:",omitempty"` // and those that stayed right
}

// book enters one update into a ledger whose last entry may be of its epoch.
func book(ledger []ledgerEntry, epoch, update int, t tally) []ledgerEntry {
	if n := len(ledger); n == 0 || ledger[n-1].Epoch != epoch {
		ledger = append(ledger, ledgerEntry{Epoch: epoch, From: update, To: update})
	}
	e := &ledger[len(ledger)-1]
	e.To++
	e.Images += t.images
	e.Hash += t.hash
	e.Top1 += t.top1
	return ledger
}

// recent are the entries that a status carries: the epoch under way and the one before; all of them when the coordinator
// may have missed more.
func recent(ledger []ledgerEntry, all bool) []*mppb.LedgerEntry {
	if !all && len(ledger) > 2 {
		ledger = ledger[len(ledger)-2:]
	}
	out := make([]*mppb.LedgerEntry, len(ledger))
	for i, e := range ledger {
		out[i] = &mppb.LedgerEntry{Epoch: uint32(e.Epoch), From: uint64(e.From), To: uint64(e.To), Images: e.Images, Hash: e.Hash}
	}
	return out
}

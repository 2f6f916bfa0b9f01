package errand

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"mp/mppb"
)

// shelf keeps the networks that came last, encoded, by their SHA-256: whoever comes again brings nothing. It gives them up
// when nobody has come for a while.
type shelf struct {
	patience time.Duration

	mu      sync.Mutex // guards what follows
	parcels []parcel   // the one that was wanted last at the end
	expiry  *time.Timer
}

// shelfPlaces is how many networks are kept: an errand has two at most.
const shelfPlaces = 2

// find returns a network, nil where it is not there.
func (s *shelf) find(sha256 string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.parcels, func(p parcel) bool { return p.name.Sha256 == sha256 })
	if i < 0 {
		return nil
	}
	p := s.parcels[i]
	s.parcels = append(slices.Delete(s.parcels, i, i+1), p)
	s.renew()
	return p.text
}

// put keeps a network whose bytes are whole.
func (s *shelf) put(p parcel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parcels = append(s.parcels, p)
	s.parcels = slices.Clone(s.parcels[max(len(s.parcels)-shelfPlaces, 0):])
	s.renew()
}

// renew puts the end off. s.mu is held.
func (s *shelf) renew() {
	if s.expiry == nil {
		s.expiry = time.AfterFunc(s.patience, s.empty)
	}
	s.expiry.Reset(s.patience)
}

// empty gives everything up.
func (s *shelf) empty() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expiry != nil {
		s.expiry.Stop()
	}
	s.parcels = nil
}

// maxNetworkBytes is more than any network of this program has.
const maxNetworkBytes = 4 << 30

// arrival is a network on its way.
type arrival struct {
	name *mppb.NetworkName
	text []byte
}

// take takes the next piece, and says whether all is there.
func (a *arrival) take(p *mppb.FilePart) (whole bool, err error) {
	if len(a.text) == 0 {
		if f := p.GetFile(); f.GetSha256() != a.name.Sha256 || f.GetSize() != a.name.Size || a.name.Size > maxNetworkBytes {
			return false, fmt.Errorf("a network of %d bytes with SHA-256 %.12s comes where one of %d bytes with %.12s was announced", f.GetSize(), f.GetSha256(), a.name.Size, a.name.Sha256)
		}
	}
	if a.text, err = gather(a.text, p, a.name.Size); err != nil || uint64(len(a.text)) < a.name.Size {
		return false, err
	}
	if got := hexSum(a.text); got != a.name.Sha256 {
		return false, fmt.Errorf("the network that came has SHA-256 %.12s, not %.12s, though each part of it was whole", got, a.name.Sha256)
	}
	return true, nil
}

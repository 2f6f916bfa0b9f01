package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"
)

func TestMany(t *testing.T) {
	n, _ := strconv.ParseUint(os.Getenv("MANY"), 10, 64)
	bad := 0
	for seed := uint64(0); seed < n && bad < 8; seed++ {
		c := DefaultConfig()
		c.Replay = seed%50 == 0
		if r := Run(seed, c); r.Violation != "" {
			bad++
			fmt.Printf("seed %d: %s\n", seed, r.Violation)
		}
	}
}

func TestDebug(t *testing.T) {
	s := os.Getenv("SEED")
	if s == "" {
		t.Skip()
	}
	n, _ := strconv.ParseUint(s, 10, 64)
	w := newWorld(n, DefaultConfig())
	from, _ := strconv.ParseFloat(os.Getenv("FROM"), 64)
	to, _ := strconv.ParseFloat(os.Getenv("TO"), 64)
	if to == 0 {
		to = 1e9
	}
	for w.result.Violation == "" && !w.over && len(w.q.heap) > 0 && float64(w.now)/1e9 < to {
		e := w.q.pop()
		w.now = e.at
		i := w.index
		f := w.result.Faults
		if float64(w.now)/1e9 >= from && os.Getenv("TRACE") != "" {
			traceLine(w, e)
		}
		w.handle(e)
		at := float64(w.now) / 1e9
		if at < from {
			continue
		}
		if f != w.result.Faults {
			for k := range f {
				if f[k] != w.result.Faults[k] {
					fmt.Printf("%.3f FAULT %s\n", at, FaultKind(k))
				}
			}
		}
		if w.index != i && e.kind == atCommit {
			for _, c := range w.proposals[e.x-1].commands {
				b, _ := json.Marshal(c)
				fmt.Printf("%.3f %s\n", at, b)
			}
		}
		if e.kind == atElected {
			fmt.Printf("%.3f ELECTED\n", at)
		}
	}
	if w.result.Violation == "" {
		w.last()
	}
	fmt.Println(w.result.Violation)
	for _, k := range w.workers {
		fmt.Printf("slot %d alive %v stopped %v id %d conn %d welcome %v view %d phase %d has %v upd %d round %d copying %v fault %+v group %v uploads %v fin %v stuck %v mine %v\n", k.slot, k.alive, k.stopped, k.id, k.conn, k.welcome != 0, k.view.Number, k.phase, k.has, k.record.update, k.round, k.copying, k.fault, k.group != nil, k.uploads, k.finished, k.stuck, k.mine)
	}
	b, _ := json.Marshal(w.state.View)
	fmt.Printf("%s\n%+v\n", b, w.leader)
}

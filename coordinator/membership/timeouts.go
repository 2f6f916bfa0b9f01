package membership

import "time"

// Times are all time-outs of a cluster. They derive from one: how long silence may last.
type Times struct {
	FailAfter  time.Duration // silence after which somebody counts as gone
	Heartbeat  time.Duration // longest pause between two signs of life of a worker; of one among many see Beat
	Election   time.Duration // silence of a coordinator's leader after which the others choose a new one
	Grace      time.Duration // how long after a change of leader workers have to come back
	FaultWait  time.Duration // how long a reported fault waits for news of the suspect before the view is made again
	Settle     time.Duration // how long a new job waits for further workers once it has enough
	JoinEvery  time.Duration // least pause between a view and one made only to take in others
	DealEvery  time.Duration // least pause between a view and one made only to deal shards better
	StateWait  time.Duration // how long, when nobody has the state, somebody may come back with it before a checkpoint is taken
	StuckAfter time.Duration // progress standing still: after one, named; after two, removed if others wait
	PauseAfter time.Duration // how long workers go on stepping without a coordinator
	Window     time.Duration // faults of one suspect within it are counted together
	Progress   time.Duration // least pause between two records of progress
	Drain      time.Duration // how long a worker that asked to leave waits for leave
}

// Timeouts derives all of them. At FailAfter = 1 s a killed worker is noticed at once, a silent one after 1.0 to 1.1 s.
func Timeouts(failAfter time.Duration) Times {
	return Times{
		FailAfter:  failAfter,
		Heartbeat:  failAfter / 10,
		Election:   failAfter / 2,
		Grace:      2 * failAfter,
		FaultWait:  failAfter / 20,
		Settle:     failAfter / 2,
		JoinEvery:  failAfter,
		DealEvery:  5 * failAfter,
		StateWait:  2 * failAfter,
		StuckAfter: 10 * failAfter,
		PauseAfter: 20 * failAfter,
		Window:     60 * failAfter,
		Progress:   failAfter / 10,
		Drain:      8 * failAfter,
	}
}

// crowd is how many workers speak once a Heartbeat. More of them speak less often, so that all together cost the same.
const crowd = 300

// Beat is the longest pause between two signs of life of one among so many workers: Heartbeat for up to crowd of them, and
// at most FailAfter/3.
func (t Times) Beat(workers int) time.Duration {
	return min(max(t.Heartbeat, t.Heartbeat*time.Duration(workers)/crowd), max(t.FailAfter/3, t.Heartbeat))
}

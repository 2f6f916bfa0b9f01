package membership

import "fmt"

// BeginAgain makes of the state of a cluster that is no more the state of one that goes on where that was. The workers are no
// longer in: those that live say Hello again. All numbers grow by gap, so that none that the lost cluster may have given out
// since means two things. Its ID of jobs grows too: a job that was handed in later is forgotten, but may still be in a worker's
// memory. It is deterministic.
func (s *State) BeginAgain(gap uint64) {
	a := &apply{State: s}
	if n := len(s.Events); n > 0 {
		a.time = s.Events[n-1].Time
	}
	s.Index, s.Sequence, s.JobCount = s.Index+gap, s.Sequence+gap, (s.JobCount/1000+1)*1000
	s.View = View{Number: s.View.Number + gap, Reason: "the cluster was restored from a backup"}
	s.First, s.Workers = nil, nil
	a.tell(Event{Topic: TopicLeader, View: s.View.Number, Warning: true, Text: fmt.Sprintf("the cluster was restored from a backup: jobs go on, the next one is job-%d", s.JobCount+1),
		Advice: "jobs that were handed in after the backup must be handed in again"})
}

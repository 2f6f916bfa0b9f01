package coordinator

import (
	"mp/coordinator/membership"
	"mp/mppb"
)

// This file says how the protocol's messages and membership's types correspond. Nothing here decides anything.

func toDataset(d *mppb.Dataset) membership.Dataset {
	if d == nil {
		return membership.Dataset{}
	}
	return membership.Dataset{TrainSHA256: d.TrainSha256, ValSHA256: d.ValSha256, TrainImages: d.TrainImages, ValImages: d.ValImages, Classes: d.Classes, Directory: d.Directory}
}

func toHello(h *mppb.Hello) membership.Hello {
	return membership.Hello{
		Protocol: h.Protocol, Version: h.Version, Host: h.Host, Machine: h.Machine, Device: h.Device, Address: h.Address,
		UnixSocket: h.UnixSocket, Data: toDataset(h.Data), Previous: h.Previous, PID: h.Pid, Name: h.Name,
	}
}

func toStatus(s *mppb.Status) membership.Status {
	st := membership.Status{
		Job: s.Job, View: s.View, Phase: membership.Phase(s.Phase), Update: s.Update, Progress: s.Progress, CaughtUp: s.CaughtUp,
		ShardSeconds: s.ShardSeconds, StepSeconds: s.StepSeconds, ImagesPerSecond: s.ImagesPerSecond, MemoryBytes: s.MemoryBytes,
		Validated: s.Validated, Leaving: s.Leaving, Finished: s.Finished, Failure: s.Failure, ArrivalSkew: s.ArrivalSkew, InboundDelay: s.InboundDelay,
		Outcome: toOutcome(s.Outcome),
	}
	for _, e := range s.Ledger {
		st.Ledger = append(st.Ledger, membership.LedgerEntry{Epoch: e.Epoch, From: e.From, To: e.To, Images: e.Images, Hash: e.Hash})
	}
	if f := s.Fault; f != nil {
		st.Fault = &membership.Fault{View: f.View, Suspect: f.Suspect, Kind: f.Kind, Text: f.Text}
	}
	return st
}

func toOutcome(o *mppb.Outcome) *membership.Outcome {
	if o == nil {
		return nil
	}
	return &membership.Outcome{BestTop1: o.BestTop1, BestTop5: o.BestTop5, BestEpoch: o.BestEpoch, Epochs: o.Epochs, Checkpoint: o.Checkpoint, SHA256: o.Sha256, OptimizerSHA256: o.OptimizerSha256}
}

func fromOutcome(o *membership.Outcome) *mppb.Outcome {
	if o == nil {
		return nil
	}
	return &mppb.Outcome{BestTop1: o.BestTop1, BestTop5: o.BestTop5, BestEpoch: o.BestEpoch, Epochs: o.Epochs, Checkpoint: o.Checkpoint, Sha256: o.SHA256, OptimizerSha256: o.OptimizerSHA256}
}

func fromRefusal(r *membership.Refusal) *mppb.Refusal {
	kinds := map[membership.RefusalKind]mppb.Refusal_Kind{
		membership.Configuration: mppb.Refusal_CONFIGURATION, membership.Fenced: mppb.Refusal_FENCED,
		membership.RefuseDrained: mppb.Refusal_DRAINED, membership.RefuseFinished: mppb.Refusal_FINISHED,
	}
	return &mppb.Refusal{Kind: kinds[r.Kind], Text: r.Text, Advice: r.Advice}
}

// fromView is the message for the view in force.
func fromView(s *membership.State, t membership.Times) *mppb.View {
	v := &s.View
	m := &mppb.View{
		Job: v.Job, Number: v.Number, Reason: v.Reason, Committed: v.Committed, Checkpoint: v.Checkpoint, CheckpointUpdate: v.CheckpointUpdate,
		Save: v.Save, HeartbeatMs: milliseconds(t.Beat(len(s.Workers))),
	}
	if j := s.Job(v.Job); j != nil {
		m.Spec, m.Directory = j.Spec, j.Directory
	}
	for _, member := range v.Members {
		w := s.Worker(member.Worker)
		if w == nil { // gone since: the next view will say so
			w = &membership.Worker{}
		}
		m.Members = append(m.Members, &mppb.Member{
			Worker: member.Worker, Name: s.Name(member.Worker), Address: w.Hello.Address, Machine: w.Hello.Machine, UnixSocket: w.Hello.UnixSocket,
			Shards: member.Shards, ValShards: member.ValShards,
		})
	}
	return m
}

func fromEvent(e membership.Event) *mppb.Event {
	return &mppb.Event{
		Sequence: e.Sequence, Time: e.Time, Job: e.Job, Topic: e.Topic, Text: e.Text, Advice: e.Advice, Warning: e.Warning,
		View: e.View, Worker: e.Worker, Update: e.Update, DetectSeconds: e.DetectSeconds, RecoverSeconds: e.RecoverSeconds,
	}
}

func fromJob(s *membership.State, j *membership.Job) *mppb.Job {
	states := map[membership.JobState]mppb.Job_State{
		membership.JobQueued: mppb.Job_QUEUED, membership.JobRunning: mppb.Job_RUNNING, membership.JobPaused: mppb.Job_PAUSED,
		membership.JobDraining: mppb.Job_DRAINING, membership.JobDone: mppb.Job_DONE, membership.JobFailed: mppb.Job_FAILED,
		membership.JobCancelled: mppb.Job_CANCELLED,
	}
	m := &mppb.Job{
		Id: j.ID, State: states[j.State], Spec: j.Spec, Directory: j.Directory, Update: j.Update, Updates: j.Updates(), EpochsDone: j.EpochsDone,
		Submitted: j.Submitted, Started: j.Started, Ended: j.Ended, Reason: j.Reason, Outcome: fromOutcome(j.Outcome),
		ImagesPerSecond: j.ImagesPerSecond,
	}
	if s.View.Job == j.ID {
		m.View, m.Workers = s.View.Number, uint32(len(s.View.Members))
	}
	return m
}

func fromLedger(all []membership.Ledger) []*mppb.Ledger {
	var out []*mppb.Ledger
	for _, l := range all {
		out = append(out, &mppb.Ledger{
			Epoch: l.Epoch, Images: l.Images, ExpectedImages: l.ExpectedImages, Missing: l.Missing, Repeated: l.Repeated,
			Hash: l.Hash, ExpectedHash: l.ExpectedHash, Whole: l.Whole,
		})
	}
	return out
}

func fromFile(job string, f membership.FileState) *mppb.FileState {
	return &mppb.FileState{Job: job, Path: f.Path, Size: f.Size, Sha256: f.SHA256, Have: f.Size, Whole: true}
}

func fromCheckpoints(j *membership.Job) []*mppb.Checkpoint {
	files := map[string]membership.FileState{}
	for _, f := range j.Files {
		files[f.Path] = f
	}
	var out []*mppb.Checkpoint
	for _, c := range j.Checkpoints {
		m := &mppb.Checkpoint{Name: c.Name, Update: c.Update, Time: c.Time, Best: c.Best}
		for _, p := range c.Files {
			m.Files = append(m.Files, fromFile(j.ID, files[p]))
		}
		out = append(out, m)
	}
	return out
}

// fromWorker is what the state and, on the leader, its knowledge say of a worker that is in.
func fromWorker(s *membership.State, w *membership.Worker, seen membership.Seen) *mppb.WorkerInfo {
	st := seen.Status
	m := &mppb.WorkerInfo{
		Worker: w.ID, Name: s.Name(w.ID), Host: w.Hello.Host, Device: w.Hello.Device, Address: w.Hello.Address, Joined: w.Joined,
		Phase: mppb.Phase(st.Phase), Update: st.Update, ShardSeconds: st.ShardSeconds, ImagesPerSecond: st.ImagesPerSecond,
		MemoryBytes: st.MemoryBytes, ArrivalSkew: st.ArrivalSkew, State: seen.State,
	}
	for _, member := range s.View.Members {
		if member.Worker == w.ID {
			m.View, m.Shards = s.View.Number, member.Shards
		}
	}
	return m
}

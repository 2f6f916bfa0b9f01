package sim

import "fmt"

var names = []string{"dial", "hello", "status", "reset", "message", "lost", "heartbeat", "commit", "decide", "elected", "formed", "begun", "computed", "reduced", "broken", "copied", "saved", "fault", "restart", "continue", "client", "check"}

func traceLine(w *world, e event) {
	if e.kind == atStatus || e.kind == atHeartbeat || e.kind == atDecide || e.kind == atCommit {
		return
	}
	k := w.workers[e.w]
	fmt.Printf("   %.4f %s slot %d tok %d/%d x %d | id %d view %d group %v has %v upd %d round %d copying %v q %d stuck %v stopped %v\n", float64(w.now)/1e9, names[e.kind], e.w, e.token, k.task, e.x, k.id, k.view.Number, k.group != nil, k.has, k.record.update, k.round, k.copying, len(k.queue), k.stuck, k.stopped)
}

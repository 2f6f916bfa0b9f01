// Package nats carries metrics through NATS: a Sink publishes the events of a worker or coordinator to JetStream, a
// Recorder reads them back in order and hands them to the sinks of each job's run directory, and a Server is a NATS server
// inside this process for those who run none. It owns the stream, the subjects and what travels on them, all in DESIGN.md;
// it must never import another package of the module than metrics, nor hold up or fail a run.
// Start reading at subject.go, then sink.go.
package nats

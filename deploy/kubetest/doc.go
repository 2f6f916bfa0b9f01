// Package kubetest is a node for tests: it does for the pods of a control plane what a machine with a kubelet and a container
// runtime does, with processes in place of containers. It binds pods to itself, runs each container's program as process 1 of
// its own namespaces on the image's root, with the pod's environment, volumes, user, probes, SIGTERM and grace, reports what
// becomes of them, and answers the names of Services and of the pods behind them. What it leaves out: networks of their own
// (every pod has an address in one network that is theirs together), limits of resources, network policies, and volumes that
// cannot be folders.
//
// It is a module of its own, so that mp needs no client of Kubernetes. Start reading at Node, then at container; the checks
// are in the tests, and `make kube-check` runs them against a real API server and controller manager.
package kubetest

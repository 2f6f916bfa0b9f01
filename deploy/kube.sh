#!/usr/bin/env bash
# Builds a control plane of Kubernetes under DIR/bin from Go's module proxy: etcd, kube-apiserver, kube-controller-manager.
# The first time takes a quarter of an hour of two cores, afterwards Go's cache has it. For `make kube-check`.
#
#   deploy/kube.sh DIR
set -euo pipefail

dir=$(realpath -m "$1")
kubernetes=v1.37.2 # and its parts, as v0.37.2
etcd=v3.7.3
parts=v0${kubernetes#v1}
mkdir -p "$dir/bin" "$dir/kubernetes" "$dir/etcd"

if [ "$(cat "$dir/etcd/version" 2>/dev/null)" != $etcd ]; then
	cd "$dir/etcd"
	rm -f go.mod go.sum
	printf 'package main\n\nimport (\n\t"os"\n\n\t"go.etcd.io/etcd/server/v3/etcdmain"\n)\n\nfunc main() { etcdmain.Main(os.Args) }\n' >main.go
	go mod init etcd >/dev/null 2>&1
	go get "go.etcd.io/etcd/server/v3@$etcd"
	go mod tidy
	go build -o "$dir/bin/etcd" .
	echo $etcd >version
fi

if [ "$(cat "$dir/kubernetes/version" 2>/dev/null)" != $kubernetes ]; then
	cd "$dir/kubernetes"
	rm -f go.mod go.sum
	go mod download "k8s.io/kubernetes@$kubernetes"
	theirs=$(go mod download -json "k8s.io/kubernetes@$kubernetes" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
	{
		printf 'module controlplane\n\n%s\n\nrequire k8s.io/kubernetes %s\n\n' "$(grep '^go ' "$theirs")" $kubernetes
		# What lies beside Kubernetes in its repository has versions of its own elsewhere.
		sed -n "s,^[[:space:]]*\(replace \)\?\(k8s.io/[a-z0-9-]*\) => ./staging/.*,replace \2 => \2 $parts," "$theirs"
	} >go.mod
	printf 'package main\n\nimport (\n\t_ "k8s.io/kubernetes/cmd/kube-apiserver/app"\n\t_ "k8s.io/kubernetes/cmd/kube-controller-manager/app"\n)\n\nfunc main() {}\n' >main.go
	go mod tidy
	for program in kube-apiserver kube-controller-manager; do
		go build -o "$dir/bin/$program" -ldflags "-X k8s.io/component-base/version.gitVersion=$kubernetes" "k8s.io/kubernetes/cmd/$program"
	done
	echo $kubernetes >version
fi
ls "$dir/bin"
